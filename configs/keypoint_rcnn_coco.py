"""Keypoint R-CNN R50-FPN on COCO's persons, torchvision's settings: 46 epochs at 16 images a step.

    python -m train keypoint_rcnn_coco --data.root /data/coco --start.weights resnet50.pth

He et al. 2017, section 5; torchvision reports 54.6 box AP and 65.0 keypoint AP on val2017 for these settings. Not run
here: it wants a GPU for a day and the ImageNet weights of torchvision's ResNet-50.
"""

import dataclasses

from configs.detectors import KeypointRCNN
from configs.faster_rcnn_coco import RECIPE as FASTER

EPOCH = 64_115 // 16
"""Of the images of train2017, 64 115 show persons; torchvision trains on these, and so does a file of them alone."""
RECIPE = dataclasses.replace(
    FASTER,
    model=KeypointRCNN(dtype="bfloat16"),
    data=dataclasses.replace(
        FASTER.data,
        train="annotations/person_keypoints_train2017.json",
        val="annotations/person_keypoints_val2017.json",
    ),
    optim=dataclasses.replace(FASTER.optim, milestones=(36 / 46, 43 / 46)),
    steps=46 * EPOCH,
    eval_every=5 * EPOCH,
)
