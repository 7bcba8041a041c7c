"""RetinaNet R50-FPN on COCO, torchvision's settings: 26 epochs at 16 images a step, from ImageNet weights.

    python -m train retinanet_coco --data.root /data/coco --start.weights resnet50.pth

Lin et al. 2017, "Focal loss for dense object detection"; torchvision reports 36.4 box AP on val2017 for these settings.
Not run here: it wants a GPU for a day and the ImageNet weights of torchvision's ResNet-50.
"""

import dataclasses

from configs.faster_rcnn_coco import RECIPE as FASTER
from configs.pyramid_detectors import RetinaNet

RECIPE = dataclasses.replace(
    FASTER, model=RetinaNet(dtype="bfloat16"), optim=dataclasses.replace(FASTER.optim, lr=0.01)
)
