"""Faster R-CNN from scratch on the generated scenes: the default recipe, sized for two CPU cores.

    make train, or python -m train faster_rcnn_scenes

Seven minutes on two CPU cores, drawing the data and compiling included; box AP 0.65, AP50 0.88 on 200 held-out images.
Ren et al. 2016 with Lin et al. 2017; a ResNet of half width with group norm, since it starts from random weights.
"""

from configs.base import Data, Optim, Recipe
from configs.detectors import FasterRCNN
from segjax.models.heads.box import BoxSettings
from segjax.models.heads.roi import PoolSettings, SamplingSettings
from segjax.models.heads.rpn import RPNSettings

RECIPE = Recipe(
    model=FasterRCNN(
        depth=18,
        # Group norm learns from the first steps on at eight images a step; the statistics of batch norm lag behind.
        norm="group",
        width=32,
        # No object fills the picture: the last, largest stage is left out.
        stages=(1, 2, 3),
        channels=64,
        hidden=(128, 128),
        rpn=RPNSettings(
            # Scenes have objects of 20 to 110 pixels.
            anchor_sizes=((20.0,), (36.0,), (60.0,), (100.0,)),
            samples=128,
            candidates=(256, 128),
            proposals=(128, 64),
        ),
        # Half of the sampled regions positive: in so short a run classes are learnt too slowly from a quarter.
        sampling=SamplingSettings(samples=64, positive_fraction=0.5),
        box=BoxSettings(candidates=512, detections=50),
        pool=PoolSettings(canonical_size=112.0),
    ),
    data=Data(buckets=((128, 160), (160, 128)), capacity=10, flip=0.5),
    optim=Optim(name="adamw", lr=3e-3, weight_decay=0.05, schedule="cosine", warmup_steps=50, clip_norm=10.0),
    steps=1300,
    batch_size=8,
    eval_batch_size=8,
    log_every=20,
    checkpoint_every=200,
)
