"""FCOS from scratch on the generated scenes, sized for two CPU cores.

    python -m train fcos_scenes

About seven minutes of processor time; AP 0.543, AP50 0.738 on 200 held-out images.
Tian et al. 2019; a ResNet of half width and narrow towers, all with group norm, since it starts from random weights.
"""

import dataclasses

from configs.faster_rcnn_scenes import RECIPE as FASTER
from configs.pyramid_detectors import FCOS
from segjax.models.heads.fcos import FCOSSettings

RECIPE = dataclasses.replace(
    FASTER,
    model=FCOS(
        depth=18,
        norm="group",
        width=32,
        channels=64,
        extra="none",
        tower_depth=2,
        head=FCOSSettings(
            units=(8.0, 16.0, 32.0),
            # The three levels share out objects of 20 to 110 pixels: to 32 pixels from a point, to 64, and beyond.
            reach=(2.0, 4.0),
            # Scores of a run this short are low, and what is left out here no curve of precision has.
            score_threshold=0.05,
            candidates=256,
            detections=50,
        ),
    ),
)
