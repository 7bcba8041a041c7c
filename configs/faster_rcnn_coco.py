"""Faster R-CNN R50-FPN on COCO, torchvision's settings: 26 epochs at 16 images a step, from ImageNet weights.

    python -m train faster_rcnn_coco --data.root /data/coco --start.weights resnet50.pth

Ren et al. 2016 with Lin et al. 2017; torchvision reports 37.0 box AP on val2017 for these settings. Not run here:
it wants a GPU for a day and the ImageNet weights of torchvision's ResNet-50.
"""

import pathlib

from configs.base import Data, Optim, Recipe, Start
from configs.detectors import FasterRCNN
from segjax.data.buckets import buckets_for

RECIPE = Recipe(
    model=FasterRCNN(dtype="bfloat16"),
    data=Data(
        format="coco",
        root=pathlib.Path("data/coco"),
        train="annotations/instances_train2017.json",
        val="annotations/instances_val2017.json",
        images=("train2017", "val2017", ""),
        buckets=buckets_for(800, 1333, steps=3),
        capacity=100,
        threads=8,
    ),
    optim=Optim(lr=0.02, milestones=(16 / 26, 22 / 26), warmup_steps=1000, freeze=("backbone/stem", "backbone/layer1")),
    start=Start(name="resnet50"),
    steps=26 * 117_266 // 16,
    batch_size=16,
    eval_batch_size=8,
    log_every=50,
    eval_every=5 * 117_266 // 16,
    checkpoint_every=2000,
)
