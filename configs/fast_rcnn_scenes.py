"""Fast R-CNN from scratch on the generated scenes, on the proposals of a trained network, sized for two CPU cores.

    python -m train faster_rcnn_scenes
    python -m train.propose runs/faster_rcnn_scenes --part train --count 128 --out data/scenes/proposals_train.npz
    python -m train.propose runs/faster_rcnn_scenes --part val --count 64 --out data/scenes/proposals_val.npz
    python -m train fast_rcnn_scenes

Eleven minutes beside other programs, the proposals not counted; box AP 0.22, AP50 0.45 on 200 held-out images
(docs/results.md): one map of stride 16 is coarse for objects of 20 pixels. Girshick 2015, on a VGG16 of a quarter of
the width with group norm, since it starts from random weights.
"""

import dataclasses

from configs.detectors import VGG16RCNN
from configs.faster_rcnn_scenes import RECIPE as SCENES
from segjax.models.heads.roi import PoolSettings, SamplingSettings

RECIPE = dataclasses.replace(
    SCENES,
    model=VGG16RCNN(
        system="fast_rcnn",
        width=16,
        norm="group",
        hidden=(128, 128),
        dropout=0.0,
        sampling=SamplingSettings(samples=64, positive_fraction=0.5),
        box=SCENES.model.box,
        pool=PoolSettings(kind="pool", size=5),
    ),
    data=dataclasses.replace(
        SCENES.data, proposals=("proposals_train.npz", "proposals_val.npz", ""), proposal_count=128
    ),
)
