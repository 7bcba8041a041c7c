"""Faster R-CNN from scratch on BCCD's blood cells, sized for two CPU cores."""

import dataclasses
import pathlib

from configs.base import Data
from configs.faster_rcnn_scenes import RECIPE as SCENES
from segjax.models.faster_rcnn import PoolSettings
from segjax.models.heads.box import BoxSettings
from segjax.models.heads.rpn import RPNSettings

RECIPE = dataclasses.replace(
    SCENES,
    model=dataclasses.replace(
        SCENES.model,
        rpn=RPNSettings(
            anchor_sizes=((16.0,), (28.0,), (48.0,), (80.0,), (128.0,)),
            samples=128,
            candidates=(512, 256),
            proposals=(256, 128),
        ),
        box=BoxSettings(samples=128, candidates=1024, detections=100),
        pool=PoolSettings(canonical_size=112.0),
    ),
    data=Data(
        format="voc",
        root=pathlib.Path("data/BCCD"),
        train="train",
        val="val",
        test="test",
        buckets=((288, 384),),
        capacity=40,
        scales=(0.8, 1.25),
        color=0.2,
    ),
    steps=1500,
    batch_size=4,
    eval_batch_size=4,
)
