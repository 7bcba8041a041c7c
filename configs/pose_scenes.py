"""DeepPose from scratch on the stick figures of the generated scenes, sized for two CPU cores.

    python -m train pose_scenes
    python -m train pose_scenes --model.pose.stages 2 --run runs/pose_scenes_cascade

Toshev and Szegedy 2014 in a small form: 64x64 pixels of each person, a ResNet-18 of a quarter of the width with group
norm up to stride 16, a hidden layer. The second command adds a stage that looks at half the pose's extent around each
joint. There are 463 persons to learn from. Scores of the whole runs are still to be measured; after 600 steps the mean
OKS of 78 held-out persons was 0.43 and PDJ at 0.2 of the torso 0.33, with the second stage 0.50 and 0.43.
"""

from configs.base import Data, Optim, Recipe
from configs.pose import DeepPose
from segjax.models.pose import PoseSettings

RECIPE = Recipe(
    model=DeepPose(
        form="resnet",
        depth=18,
        norm="group",
        width=0.25,
        stage=3,
        hidden=(256,),
        dropout=0.2,
        pooled=4,
        crop_pooled=2,
        pose=PoseSettings(side=64, crop_side=24, sigma=0.5),
    ),
    # Larger than what the first stage sees, for the crops of the second. Half of the persons are below 76 pixels.
    data=Data(crops=1.25, buckets=((96, 96),), capacity=1, flip=0.5, scales=(0.9, 1.3), color=0.2),
    optim=Optim(name="adamw", lr=1e-3, weight_decay=0.01, schedule="cosine", warmup_steps=50, clip_norm=10.0),
    steps=3000,
    batch_size=16,
    eval_batch_size=16,
    log_every=50,
    checkpoint_every=1000,
)
