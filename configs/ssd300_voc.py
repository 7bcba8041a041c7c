"""SSD300 on VGG16 on Pascal VOC 2007 and 2012, the authors' settings: 120 000 steps of 32 images of 300x300 pixels.

    python -m train ssd300_voc --data.root /data/VOC0712 --start.weights vgg16_features-amdegroot-88682ab5.pth

The folder holds the annotations and images of trainval of both years and of the test part of 2007, whose stems differ,
and ImageSets/Main with trainval.txt, both years' lists one after the other, and test.txt. The weights are those that
torchvision calls VGG16_Weights.IMAGENET1K_FEATURES, of the original VGG16, which has seen bytes less their mean. That
file has no hidden layers: fc6 and fc7 start from random numbers. Of a file that has them, they are thinned out.

Liu et al. 2016, with the augmentation of section 3.6, reports 77.2 mAP on VOC 2007 test. Not run here: it wants a GPU
for a day and those weights.
"""

import pathlib

from configs.augment import Augment
from configs.base import Data, Optim, Recipe, Start
from configs.ssd import SSD
from segjax.models.ssd import SSD300_VOC

RECIPE = Recipe(
    model=SSD(priors=SSD300_VOC, dtype="bfloat16"),
    data=Data(
        format="voc",
        root=pathlib.Path("data/VOC0712"),
        train="trainval",
        val="test",
        buckets=((300, 300),),
        stretch=True,
        capacity=64,
        augment=Augment(zoom_out=0.5, iou_crop=1.0, photometric=1.0),
        threads=8,
    ),
    optim=Optim(lr=1e-3, weight_decay=5e-4, milestones=(2 / 3, 5 / 6), warmup_steps=1000),
    start=Start(name="vgg16"),
    steps=120_000,
    batch_size=32,
    eval_batch_size=32,
    log_every=50,
    eval_every=20_000,
    checkpoint_every=2000,
)
