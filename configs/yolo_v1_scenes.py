"""YOLO, first version, from scratch on the generated scenes, sized for two CPU cores.

    python -m train yolo_v1_scenes

Redmon et al. 2016 in a small form: a ResNet-18 of a quarter of the width with group norm in place of the twenty
pre-trained convolutions, two of the last four, and one fully connected layer of the two. Where objects are is learnt in
some hundred steps, their classes only after a thousand and a half: a cell teaches the class of one object, where a
detector with many places for each object teaches it many times. Twelve minutes of processor time; AP 0.176, AP50 0.368
on 200 held-out images.
"""

from configs.base import Data, Optim, Recipe
from configs.yolo import YOLOv1
from segjax.models.heads.yolo import YOLOSettings

RECIPE = Recipe(
    model=YOLOv1(
        form="resnet",
        depth=18,
        norm="group",
        width=0.25,
        stage=3,
        # To 5 x 5 positions, one for each cell.
        convolutions=((128, 2), (128, 1)),
        # With a hidden layer of 512, 64 channels and a rate of 5e-4, centres took twice as many steps.
        hidden=(),
        dropout=0.0,
        # A coarser grid than the paper's has more objects to learn each cell from; one in 22 shares its cell.
        grid=5,
        yolo=YOLOSettings(detections=50),
    ),
    data=Data(buckets=((160, 160),), capacity=10, flip=0.5, scales=(0.8, 1.25)),
    optim=Optim(
        name="adamw",
        lr=3e-3,
        # At the full rate the outputs jump: each is a sum over all positions.
        factors=(("head/output", 0.1),),
        weight_decay=0.01,
        schedule="cosine",
        warmup_steps=50,
        clip_norm=10.0,
    ),
    steps=6000,
    batch_size=8,
    eval_batch_size=8,
    log_every=50,
    checkpoint_every=1000,
)
