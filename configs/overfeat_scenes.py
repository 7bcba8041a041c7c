"""OverFeat from scratch on the generated scenes, sized for two CPU cores.

    python -m train overfeat_scenes

Sermanet et al. 2014 in a small form: windows of 39 pixels, 8 pixels apart, at three scales and three aspect ratios,
some 2500 an image, of which 96 are drawn and cut out in training. Layer norm, since it starts from random weights and
may not look beyond a window. Not run to its end yet.
"""

import dataclasses

from configs.faster_rcnn_scenes import RECIPE as SCENES
from configs.overfeat import OverFeat
from segjax.models.heads.window import WindowSettings

RECIPE = dataclasses.replace(
    SCENES,
    model=OverFeat(
        layers=((20, 5, 2, 1), (40, 3, 1, 2), (80, 3, 1, 2)),
        # Scenes have objects of 20 to 110 pixels: windows cover 26, 42 and 70. All but 1.4 % of the objects overlap one
        # of them by half or more.
        levels=tuple((scale, aspect) for scale in (1.5, 0.93, 0.557) for aspect in (0.5, 1.0, 2.0)),
        stride=8,
        margin=8,
        hidden=(160,),
        box_hidden=(160,),
        norm="layer",
        # Three negatives to a positive: of some 2500 windows an image fifty are positive.
        samples=96,
        positive_fraction=0.25,
        dropout=0.0,
        head=WindowSettings(detections=50),
    ),
    optim=dataclasses.replace(SCENES.optim, lr=2e-3),
    # Of 768 windows each: as long on one core as the other detectors on this data train.
    steps=600,
    checkpoint_every=200,
)
