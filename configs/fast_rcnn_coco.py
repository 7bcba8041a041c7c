"""Fast R-CNN on VGG16 on COCO, the paper's settings: 240 000 steps of two images, on proposals from a file.

    python -m train.selective_search fast_rcnn_coco --data.root /data/coco --part train --out /data/coco/train.npz
    python -m train.selective_search fast_rcnn_coco --data.root /data/coco --part val --out /data/coco/val.npz
    python -m train fast_rcnn_coco --data.root /data/coco --data.proposals train.npz val.npz "" \\
        --start.weights vgg16.pth

Girshick 2015, section 5.6, reports 19.7 AP and 35.9 AP50 on test-dev with proposals of selective search. Not run here:
it wants a GPU for a day, the ImageNet weights of torchvision's VGG16, and such proposals, which take two CPU seconds an
image. `python -m train.propose` makes others with a region proposal network.
"""

import dataclasses

from configs.base import Optim, Start
from configs.detectors import VGG16RCNN
from configs.faster_rcnn_coco import RECIPE as FASTER
from segjax.data.buckets import buckets_for
from segjax.models.fast_rcnn import PAPER

RECIPE = dataclasses.replace(
    FASTER,
    model=VGG16RCNN(system="fast_rcnn", dtype="bfloat16", sampling=PAPER),
    data=dataclasses.replace(
        FASTER.data, buckets=buckets_for(608, 992, steps=3), proposals=("train.npz", "val.npz", "")
    ),
    optim=Optim(
        lr=1e-3,
        weight_decay=5e-4,
        milestones=(2 / 3,),
        warmup_steps=100,
        # Fine-tuned from conv3_1 on: section 4.5, and models/VGG16/coco of the authors' code.
        freeze=tuple(f"backbone/conv{layer}" for layer in ("1_1", "1_2", "2_1", "2_2")),
    ),
    start=Start(name="vgg16"),
    steps=240_000,
    batch_size=2,
    eval_every=60_000,
)
