"""Faster R-CNN on VGG16 on COCO, the paper's settings: RoI pooling of one map, trained jointly.

    python -m train faster_rcnn_vgg16_coco --data.root /data/coco --start.weights vgg16.pth

Ren et al. 2016, table 11, reports 21.5 AP and 42.1 AP50 on test-dev, trained on COCO train. `--alternating` trains in
four steps. Not run here: it wants a GPU for a day and the ImageNet weights of torchvision's VGG16.
"""

import dataclasses

from configs.base import Optim
from configs.detectors import VGG16RCNN
from configs.fast_rcnn_coco import RECIPE as FAST
from segjax.models.heads.roi import SamplingSettings
from segjax.models.heads.rpn import RPNSettings

RECIPE = dataclasses.replace(
    FAST,
    model=VGG16RCNN(
        dtype="bfloat16",
        rpn=RPNSettings(
            # Four scales: section 4.2 adds 64 pixels for COCO's small objects.
            anchor_sizes=((64.0, 128.0, 256.0, 512.0),),
            candidates=(12_000, 6000),
            proposals=(2000, 300),
        ),
        sampling=SamplingSettings(samples=256),
    ),
    data=dataclasses.replace(FAST.data, proposals=("", "", "")),
    optim=Optim(lr=3e-3, weight_decay=5e-4, milestones=(3 / 4,), warmup_steps=100, freeze=FAST.optim.freeze),
    steps=320_000 // 4,
    batch_size=8,
)
