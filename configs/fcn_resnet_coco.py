"""FCN-ResNet50 on COCO with Pascal VOC's classes, torchvision's settings: 30 epochs at 32 images a step, 480 pixels.

    python -m train fcn_resnet_coco --data.root /data/coco --start.weights resnet50.pth

torchvision reports 60.5 mIoU on val2017 for these settings; it takes the 92 518 images with more than 1000 pixels of
the classes, lowers the rate by a power of 0.9 where this follows a cosine, and gives the auxiliary head ten times the
rate. Not run here: it wants a GPU for a day and the ImageNet weights of torchvision's ResNet-50.
"""

import pathlib

from configs.base import Optim, Recipe, Start
from configs.data import Data
from configs.segmenters import FCNResNet
from segjax.data.coco_label_maps import COCO_VOC_CLASSES

RECIPE = Recipe(
    model=FCNResNet(dtype="bfloat16"),
    data=Data(
        format="coco",
        root=pathlib.Path("data/coco"),
        train="annotations/instances_train2017.json",
        val="annotations/instances_val2017.json",
        images=("train2017", "val2017", ""),
        classes=COCO_VOC_CLASSES,
        # Windows of images whose sides vary by a factor of four; evaluation is on whole ones.
        buckets=((480, 480),),
        evaluation_buckets=((544, 544), (544, 704), (704, 544)),
        scales=(0.5, 2.0),
        threads=8,
    ),
    optim=Optim(lr=0.02, weight_decay=1e-4, schedule="cosine", warmup_steps=500),
    start=Start(name="resnet50", norm="batch"),
    steps=30 * 92_518 // 32,
    batch_size=32,
    eval_batch_size=8,
    log_every=50,
    eval_every=5 * 92_518 // 32,
    checkpoint_every=2000,
)
