"""Faster R-CNN R50-C4 on COCO: one map of stride 16, and the last stage of the ResNet on every region.

    python -m train faster_rcnn_c4_coco --data.root /data/coco --start.weights resnet50.pth

He et al. 2016, appendix A, with RoIAlign; Detectron2 reports 35.7 box AP on val2017 after 90 000 steps of 16 images.
Not run here: it wants a GPU for a day and the ImageNet weights of torchvision's ResNet-50.
"""

import dataclasses

from configs.detectors import ONE_MAP, SingleMapRCNN
from configs.faster_rcnn_coco import RECIPE as FASTER

RECIPE = dataclasses.replace(
    FASTER,
    model=SingleMapRCNN(
        dtype="bfloat16", rpn=dataclasses.replace(ONE_MAP, candidates=(12_000, 6000), proposals=(2000, 1000))
    ),
    optim=dataclasses.replace(FASTER.optim, milestones=(6 / 9, 8 / 9)),
    steps=90_000,
)
