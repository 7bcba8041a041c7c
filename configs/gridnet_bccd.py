"""A grid detector from scratch on BCCD's blood cells, sized for two CPU cores.

    python -m train gridnet_bccd --data.root BCCD

The data, the steps and the rates are those of `faster_rcnn_bccd`. Eleven minutes of processor time; box AP 0.58, AP50
0.90 on val, AP50 0.90 on test (docs/results.md).
"""

import dataclasses

from configs.faster_rcnn_bccd import RECIPE as FASTER_RCNN
from configs.gridnet_scenes import RECIPE as SCENES

RECIPE = dataclasses.replace(
    SCENES,
    model=dataclasses.replace(
        SCENES.model, head=dataclasses.replace(SCENES.model.head, candidates=1024, detections=100)
    ),
    data=FASTER_RCNN.data,
    optim=FASTER_RCNN.optim,
    steps=FASTER_RCNN.steps,
    batch_size=FASTER_RCNN.batch_size,
    eval_batch_size=FASTER_RCNN.eval_batch_size,
)
