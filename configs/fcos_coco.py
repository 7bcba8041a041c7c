"""FCOS R50-FPN on COCO, torchvision's settings: 26 epochs at 16 images a step, from ImageNet weights.

    python -m train fcos_coco --data.root /data/coco --start.weights resnet50.pth

Tian et al. 2019 with their changes of 2020; torchvision reports 39.2 box AP on val2017 for these settings. Not run
here: it wants a GPU for a day and the ImageNet weights of torchvision's ResNet-50.
"""

import dataclasses

from configs.faster_rcnn_coco import RECIPE as FASTER
from configs.pyramid_detectors import FCOS

RECIPE = dataclasses.replace(FASTER, model=FCOS(dtype="bfloat16"), optim=dataclasses.replace(FASTER.optim, lr=0.01))
