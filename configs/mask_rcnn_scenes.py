"""Mask R-CNN from scratch on the generated scenes, sized for two CPU cores.

python -m train mask_rcnn_scenes
"""

import dataclasses

from configs.faster_rcnn_scenes import RECIPE as SCENES
from configs.models import MaskRCNN
from segjax.models.heads.roi import PoolSettings

BASE = SCENES.model
RECIPE = dataclasses.replace(
    SCENES,
    model=MaskRCNN(
        depth=BASE.depth,
        norm=BASE.norm,
        width=BASE.width,
        stages=BASE.stages,
        channels=BASE.channels,
        hidden=BASE.hidden,
        rpn=BASE.rpn,
        sampling=BASE.sampling,
        box=BASE.box,
        pool=BASE.pool,
        mask_channels=(64, 64),
        mask_pool=PoolSettings(size=14, canonical_size=112.0),
    ),
)
