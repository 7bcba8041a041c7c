"""Faster R-CNN from scratch on the generated scenes: the default recipe, sized for two CPU cores."""

from configs.base import Data, FasterRCNN, Optim, Recipe
from segjax.models.faster_rcnn import PoolSettings
from segjax.models.heads.box import BoxSettings
from segjax.models.heads.rpn import RPNSettings

RECIPE = Recipe(
    model=FasterRCNN(
        depth=18,
        norm="group",
        width=24,
        channels=64,
        hidden=128,
        rpn=RPNSettings(
            # Scenes have objects of 14 to 110 pixels.
            anchor_sizes=((16.0,), (28.0,), (48.0,), (80.0,), (128.0,)),
            samples=128,
            candidates=(256, 128),
            proposals=(128, 64),
        ),
        box=BoxSettings(samples=64, candidates=512, detections=50),
        pool=PoolSettings(canonical_size=112.0),
    ),
    data=Data(buckets=((128, 160), (160, 128)), capacity=10, flip=0.5),
    optim=Optim(name="adamw", lr=1e-3, weight_decay=0.05, schedule="cosine", warmup_steps=50, clip_norm=10.0),
    steps=700,
    batch_size=8,
    eval_batch_size=8,
    log_every=20,
    checkpoint_every=200,
)
