"""DeepPose on the stick figures of the generated scenes, sized for two CPU cores.

    python -m train faster_rcnn_scenes
    python -m train pose_scenes --start.runs runs/faster_rcnn_scenes
    python -m train pose_scenes --start.runs runs/faster_rcnn_scenes --model.pose.stages 2 --run runs/pose_cascade

Toshev and Szegedy 2014 in a small form: 64x64 pixels of each person, a ResNet-18 of half width with group norm up to
stride 16, a hidden layer. The backbone is that of Faster R-CNN, whose weights the first stage starts from: 463 persons
are few to learn from. The third command adds a stage that looks at half the pose's extent around each joint, through a
network up to stride 8 that starts from random weights. Mean OKS of 78 held-out persons 0.604 and PDJ at 0.2 of the
torso 0.564 after two minutes of processor time, with the second stage 0.694 and 0.712 after eight.
"""

from configs.base import Data, Optim, Recipe
from configs.pose import DeepPose
from segjax.models.pose import PoseSettings

RECIPE = Recipe(
    model=DeepPose(
        form="resnet",
        depth=18,
        norm="group",
        width=0.5,
        stage=3,
        # A map of 4x4 positions of each crop: group norm takes its moments over what a group has of one crop.
        crop_stage=2,
        hidden=(256,),
        dropout=0.2,
        pooled=4,
        crop_pooled=4,
        pose=PoseSettings(side=64, crop_side=32, sigma=0.5),
    ),
    # Larger than what the first stage sees, for the crops of the second. Half of the persons are below 76 pixels.
    # A scale below 1 would only blur: the first stage sees all of the image, whatever its share of the bucket.
    data=Data(crops=1.25, buckets=((96, 96),), capacity=1, flip=0.5, scales=(1.0, 1.3), color=0.2),
    optim=Optim(name="adamw", lr=1e-3, weight_decay=0.01, schedule="cosine", warmup_steps=50, clip_norm=10.0),
    steps=1500,
    batch_size=16,
    eval_batch_size=16,
    log_every=50,
    checkpoint_every=500,
)
