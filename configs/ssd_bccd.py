"""SSD from scratch on BCCD's blood cells, sized for two CPU cores.

    python -m train ssd_bccd --data.root BCCD

Liu et al. 2016; the network of `ssd_scenes`.
"""

import dataclasses

from configs.faster_rcnn_bccd import RECIPE as BCCD
from configs.ssd_scenes import RECIPE as SCENES
from segjax.models.heads.ssd import PriorSettings, SSDSettings

RECIPE = dataclasses.replace(
    SCENES,
    model=dataclasses.replace(
        SCENES.model,
        priors=PriorSettings(
            # At half size, in images of 240 x 320, platelets are about 20 pixels across, red cells 50, white ones 95.
            scales=(0.07, 0.14, 0.24, 0.4, 0.6),
            ratios=((2.0,), (2.0,), (2.0,), (2.0,)),
            steps=(),
        ),
        ssd=SSDSettings(candidates=200, detections=100),
    ),
    data=BCCD.data,
    steps=800,
    batch_size=4,
    eval_batch_size=4,
)
