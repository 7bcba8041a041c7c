"""Faster R-CNN on MobileNetV3-Large with a feature pyramid on COCO, torchvision's settings.

    python -m train faster_rcnn_mobilenet_coco --data.root /data/coco --start.weights mobilenet_v3_large.pth

Howard et al. 2019 with Lin et al. 2017; torchvision reports 32.8 box AP on val2017 after 26 epochs. Not run here: it
wants a GPU for a day and the ImageNet weights of torchvision's MobileNetV3-Large.
"""

import dataclasses

from configs.detectors import MobileNetRCNN
from configs.faster_rcnn_coco import RECIPE as FASTER

RECIPE = dataclasses.replace(
    FASTER,
    model=MobileNetRCNN(dtype="bfloat16"),
    optim=dataclasses.replace(FASTER.optim, freeze=()),
    start=dataclasses.replace(FASTER.start, name="mobilenet_v3_large"),
)
