"""SSDLite on MobileNetV3-Large on COCO, torchvision's settings: 660 epochs at 192 images a step, from random weights.

    python -m train ssdlite_coco --data.root /data/coco

Howard et al. 2019 with Liu et al. 2016; torchvision reports 21.3 box AP on val2017. Not run here: it wants several GPUs
for days.
"""

import dataclasses

from configs.augment import Augment
from configs.base import Optim, Start
from configs.faster_rcnn_coco import RECIPE as FASTER
from configs.ssd import SSDLite

EPOCH = 117_266 // 192
"""Steps."""

RECIPE = dataclasses.replace(
    FASTER,
    model=SSDLite(dtype="bfloat16"),
    data=dataclasses.replace(FASTER.data, buckets=((320, 320),), stretch=True, augment=Augment(iou_crop=1.0)),
    optim=Optim(lr=0.15, weight_decay=4e-5, schedule="cosine", warmup_steps=1000),
    start=Start(),
    steps=660 * EPOCH,
    batch_size=192,
    eval_batch_size=64,
    eval_every=60 * EPOCH,
)
