"""DeepLabV3-ResNet101 on Pascal VOC 2012, the paper's settings: 30 000 steps of 16 windows of 512 pixels.

    python -m train deeplabv3_voc --data.root /data/VOCdevkit/VOC2012 --start.weights resnet101.pth

Chen et al. 2017, section 4.1: stride 16 in training, scales from 0.5 to 2, 10 582 images with the annotations of
Hariharan et al. 2011: ImageSets/Segmentation/trainaug.txt is to list them, and the folder SegmentationClassAug to hold
the masks of all of them, PNG files of ids like VOC's own. The paper reports 77.2 mIoU on val, with dilations that
differ within the last stage, which this has not, and lowers the rate by a power of 0.9 where this follows a cosine. Not
run here: it wants a GPU for a day and the ImageNet weights of torchvision's ResNet-101.
"""

import pathlib

from configs.base import Optim, Recipe, Start
from configs.data import Data, Masks
from configs.segmenters import DeepLabV3

RECIPE = Recipe(
    model=DeepLabV3(depth=101, dilate_last=1, rates=(6, 12, 18), auxiliary=False, dtype="bfloat16"),
    data=Data(
        format="voc",
        root=pathlib.Path("data/VOCdevkit/VOC2012"),
        train="trainaug",
        val="val",
        masks=Masks(folders=("SegmentationClassAug", "", "")),
        buckets=((512, 512),),
        scales=(0.5, 2.0),
        threads=8,
    ),
    optim=Optim(lr=0.007, weight_decay=1e-4, schedule="cosine", warmup_steps=500),
    start=Start(name="resnet101", norm="batch"),
    steps=30_000,
    batch_size=16,
    eval_batch_size=8,
    log_every=50,
    eval_every=5000,
    checkpoint_every=2000,
)
