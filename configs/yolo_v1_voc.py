"""YOLO, first version, on Pascal VOC 2007 and 2012, the paper's settings: 135 epochs of images of 448x448 pixels.

    python -m train yolo_v1_voc --data.root /data/VOC0712

The folder holds the annotations and images of trainval of both years and of the test part of 2007, whose stems differ,
and ImageSets/Main with trainval.txt, both years' lists one after the other, and test.txt.

Redmon et al. 2016, section 2.2: batches of 64, momentum 0.9, decay 5e-4, a rate of 1e-2 for 75 epochs, then 1e-3 and
1e-4 for 30 each, raised slowly at first; 63.4 mAP on VOC 2007 test. The paper starts from twenty convolutions trained
on ImageNet, whose weights we do not have: so there is batch norm here, and no expected score. It changes exposure and
saturation by up to 1.5 and scale and place by up to a fifth, which `color` and `scales` stand for. Darknet's gradient
is half that of equation 3, which is followed here. Not run here: it wants a GPU for days.
"""

import pathlib

from configs.base import Data, Optim, Recipe
from configs.yolo import YOLOv1

IMAGES = 5011 + 11_540
"""Of trainval, 2007 and 2012."""
STEPS = 135 * IMAGES // 64

RECIPE = Recipe(
    model=YOLOv1(dtype="bfloat16"),
    data=Data(
        format="voc",
        root=pathlib.Path("data/VOC0712"),
        train="trainval",
        val="test",
        buckets=((448, 448),),
        stretch=True,
        capacity=64,
        scales=(0.8, 1.2),
        color=0.4,
        threads=8,
    ),
    optim=Optim(
        lr=1e-2,
        weight_decay=5e-4,
        milestones=(75 / 135, 105 / 135),
        warmup_steps=5 * IMAGES // 64,
        clip_norm=10.0,
    ),
    steps=STEPS,
    batch_size=64,
    eval_batch_size=64,
    log_every=50,
    eval_every=STEPS // 9,
    checkpoint_every=1000,
)
