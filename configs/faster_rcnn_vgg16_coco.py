"""Faster R-CNN on VGG16 on COCO: RoI pooling of one map, trained jointly for the paper's number of steps.

    python -m train faster_rcnn_vgg16_coco --data.root /data/coco --start.weights vgg16.pth

Ren et al. 2016, table 11, reports 21.5 AP and 42.1 AP50 on test-dev, trained on COCO train in four steps, which is
`--alternating`. There (section 4.2) proposals and heads are trained for 240 000 steps at a rate of 0.003 and 80 000 at
0.0003 each, the proposals on 8 images a step and the heads on 16: ours see 8 either way. Not run here: it wants a GPU
for days and the ImageNet weights of torchvision's VGG16.
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
    steps=320_000,
    batch_size=8,
)
