"""Mask R-CNN R50-FPN on COCO, torchvision's settings: 26 epochs at 16 images a step, from ImageNet weights.

    python -m train mask_rcnn_coco --data.root /data/coco --start.weights resnet50.pth

He et al. 2017; torchvision reports 37.9 box AP and 34.6 mask AP on val2017 for these settings. Not run here: it wants a
GPU for a day and the ImageNet weights of torchvision's ResNet-50.
"""

import dataclasses

from configs.detectors import MaskRCNN
from configs.faster_rcnn_coco import RECIPE as FASTER

RECIPE = dataclasses.replace(FASTER, model=MaskRCNN(dtype="bfloat16"))
