"""Faster R-CNN on the narrow VGG16 of `rcnn_scenes` from scratch on the generated scenes, sized for two CPU cores.

    python -m train faster_rcnn_vgg16_scenes

Ren et al. 2016 as in the paper, one map and RoI pooling, where `faster_rcnn_scenes` has a ResNet, a pyramid and
RoIAlign: what it is to be compared with is `fast_rcnn_scenes`, which differs in where the proposals come from
alone. AP 0.510, AP50 0.842 after ten minutes on one CPU core.
"""

import dataclasses

from configs.fast_rcnn_scenes import RECIPE as FAST_RCNN
from configs.faster_rcnn_scenes import RECIPE as SCENES
from segjax.models.heads.rpn import RPNSettings

RECIPE = dataclasses.replace(
    FAST_RCNN,
    model=dataclasses.replace(
        FAST_RCNN.model,
        system="faster_rcnn",
        rpn=RPNSettings(
            anchor_sizes=((20.0, 36.0, 60.0, 100.0),), samples=128, candidates=(256, 128), proposals=(128, 64)
        ),
    ),
    data=SCENES.data,
)
