"""Faster R-CNN on one map of a ResNet from scratch on the generated scenes, sized for two CPU cores.

python -m train faster_rcnn_c4_scenes
"""

import dataclasses

from configs.faster_rcnn_scenes import RECIPE as SCENES
from configs.models import SingleMapRCNN
from segjax.models.heads.roi import PoolSettings

BASE = SCENES.model
RECIPE = dataclasses.replace(
    SCENES,
    model=SingleMapRCNN(
        depth=18,
        norm="group",
        width=32,
        rpn=dataclasses.replace(BASE.rpn, anchor_sizes=((20.0, 36.0, 60.0, 100.0),)),
        sampling=BASE.sampling,
        box=BASE.box,
        pool=PoolSettings(size=8),
    ),
)
