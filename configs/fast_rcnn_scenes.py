"""Fast R-CNN from scratch on the generated scenes, on proposals of selective search, sized for two CPU cores.

    python -m train.selective_search fast_rcnn_scenes --part train
    python -m train.selective_search fast_rcnn_scenes --part val
    python -m train fast_rcnn_scenes

Girshick 2015, on the backbone and the proposals of `rcnn_scenes`, with one loss and one stage in place of its four.
Proposals of a trained network are read as well: `python -m train.propose`, and --data.proposals.
AP 0.544, AP50 0.825 after nine minutes on one CPU core.
"""

import dataclasses

from configs.detectors import VGG16RCNN
from configs.faster_rcnn_scenes import RECIPE as SCENES
from configs.rcnn_scenes import RECIPE as RCNN_SCENES
from segjax.models.heads.roi import PoolSettings, SamplingSettings

RECIPE = dataclasses.replace(
    SCENES,
    model=VGG16RCNN(
        system="fast_rcnn",
        width=round(64 * RCNN_SCENES.model.width),
        stage=RCNN_SCENES.model.stage,
        norm="group",
        hidden=(128, 128),
        dropout=0.0,
        sampling=SamplingSettings(samples=64, positive_fraction=0.5),
        box=SCENES.model.box,
        pool=PoolSettings(kind="pool", size=5),
    ),
    data=RCNN_SCENES.data,
)
