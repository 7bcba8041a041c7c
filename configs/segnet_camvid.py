"""SegNet on CamVid, the paper's settings.

    python -m train segnet_camvid --data.root /data/CamVid --start.weights vgg16.pth

Badrinarayanan et al. 2017: 367 images of 360x480, eleven classes, the twelfth, void, does not count; VGG16's weights,
SGD at 0.1 with momentum 0.9, twelve images a step, classes weighed by median frequency (the weights are those of the
authors' published model). The number of steps is ours. The mean IoU of 60.1 that the paper reports is of a training set
of some 3500 images and does not compare with these 367. The data is that of the authors' tutorial, whose lists name an
image and its mask a line. The paper's local contrast normalisation of the images is not here. Not run here: it wants a
GPU and the ImageNet weights of torchvision's VGG16.
"""

import pathlib

from configs.base import Data, Optim, Recipe, Start
from configs.data import Masks
from configs.historic_segmenters import SegNet
from segjax.models.segmenter import PixelLoss

CLASSES = (
    *("Sky", "Building", "Pole", "Road", "Pavement", "Tree"),
    *("SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist"),
)
MEDIAN_FREQUENCY = (0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614)

RECIPE = Recipe(
    model=SegNet(loss=PixelLoss(class_weights=MEDIAN_FREQUENCY)),
    data=Data(
        format="lists",
        root=pathlib.Path("data/CamVid"),
        train="train.txt",
        val="val.txt",
        test="test.txt",
        classes=CLASSES,
        masks=Masks(ignore=(11,)),
        buckets=((384, 480),),
        threads=4,
    ),
    optim=Optim(lr=0.1, momentum=0.9, weight_decay=5e-4, schedule="constant", warmup_steps=0),
    start=Start(name="vgg16"),
    steps=80_000,
    batch_size=12,
    eval_every=5000,
    checkpoint_every=1000,
)
