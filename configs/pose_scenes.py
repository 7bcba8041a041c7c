"""DeepPose from scratch on the stick figures of the generated scenes, sized for two CPU cores.

python -m train pose_scenes
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
        pose=PoseSettings(side=64, crop_side=32, sigma=0.5),
    ),
    data=Data(crops=1.25, buckets=((96, 96),), capacity=1, flip=0.5, scales=(0.9, 1.3), color=0.2),
    optim=Optim(name="adamw", lr=1e-3, weight_decay=0.01, schedule="cosine", warmup_steps=50, clip_norm=10.0),
    steps=3000,
    batch_size=16,
    eval_batch_size=16,
    log_every=50,
    checkpoint_every=1000,
)
