"""RetinaNet from scratch on the generated scenes, sized for two CPU cores.

    python -m train retinanet_scenes

About seven minutes of processor time; AP 0.373, AP50 0.556 on 200 held-out images.
Lin et al. 2017, "Focal loss for dense object detection"; a ResNet of half width and narrow towers, all with group norm,
since it starts from random weights.
"""

import dataclasses

from configs.faster_rcnn_scenes import RECIPE as FASTER
from configs.pyramid_detectors import RetinaNet
from segjax.models.heads.retina import RetinaSettings

RECIPE = dataclasses.replace(
    FASTER,
    model=RetinaNet(
        depth=18,
        norm="group",
        width=32,
        channels=64,
        # Strides 8 to 32: scenes have objects of 20 to 110 pixels.
        extra="none",
        tower_depth=2,
        tower_norm="group",
        head=RetinaSettings(
            anchor_sizes=((20.0, 25.0, 32.0), (40.0, 50.0, 64.0), (80.0, 101.0, 127.0)), candidates=256, detections=50
        ),
    ),
)
