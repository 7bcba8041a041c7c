"""Faster R-CNN R50-FPN in torchvision's `_v2` form on COCO: norms throughout, more convolutions in the heads.

    python -m train faster_rcnn_v2_coco --data.root /data/coco --start.weights resnet50.pth

Li et al. 2021; torchvision reports 46.7 box AP on val2017 after long training with large-scale jitter. The model is
theirs; the schedule, 100 epochs at 1024 pixels, is of the paper's kind. Not run here: it wants several GPUs for days.
"""

import dataclasses

from configs.detectors import FasterRCNN
from configs.faster_rcnn_coco import RECIPE as FASTER

EPOCH = 117_266 // 64
RECIPE = dataclasses.replace(
    FASTER,
    model=FasterRCNN(
        dtype="bfloat16", norm="batch", head_norm="batch", rpn_depth=2, box_channels=(256,) * 4, hidden=(1024,)
    ),
    data=dataclasses.replace(FASTER.data, buckets=((1024, 1024),), scales=(0.1, 2.0)),
    optim=dataclasses.replace(FASTER.optim, lr=0.08, weight_decay=4e-5, milestones=(0.9, 0.95), freeze=()),
    start=dataclasses.replace(FASTER.start, norm="batch"),
    steps=100 * EPOCH,
    batch_size=64,
    eval_every=10 * EPOCH,
)
