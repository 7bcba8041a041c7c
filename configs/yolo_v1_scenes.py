"""YOLO, first version, from scratch on the generated scenes, sized for two CPU cores.

    python -m train yolo_v1_scenes

Redmon et al. 2016 in a small form: a ResNet-18 of a quarter of the width with group norm in place of the twenty
pre-trained convolutions, two of the last four, a hidden layer of 512 units. The fully connected layers know nothing of
one cell from another, so this takes many more epochs than detectors whose cells share weights. Scores are still to be
measured: in 300 steps the loss of centres fell from 2.9, that of constant predictions, to 2.2, and the classes were not
learnt yet. A plain stack of convolutions, as the paper's is, was at 2.8 after 400 steps in the only trial of one.
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
        convolutions=((64, 2), (64, 1)),
        hidden=(512,),
        dropout=0.2,
        # A coarser grid than the paper's has more objects to learn each cell from; one in 22 shares its cell.
        grid=5,
        yolo=YOLOSettings(detections=50),
    ),
    data=Data(buckets=((160, 160),), capacity=10, flip=0.5, scales=(0.8, 1.25)),
    # A larger rate makes the outputs jump: each is a sum over a whole layer.
    optim=Optim(name="adamw", lr=5e-4, weight_decay=0.01, schedule="cosine", warmup_steps=50, clip_norm=10.0),
    steps=6000,
    batch_size=8,
    eval_batch_size=8,
    log_every=50,
    checkpoint_every=1000,
)
