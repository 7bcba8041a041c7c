"""A grid detector on COCO, from random weights: 640x640, 100 epochs at 64 images a step.

    python -m train gridnet_coco --data.root /data/coco

No published figure is of just this network; YOLOX-S, of about its size and with 300 epochs of stronger augmentation,
reports 40.5 box AP on val2017 (Ge et al. 2021, table 6). Not run here: it wants several GPUs for days.
"""

import pathlib

from configs.base import Data, Optim, Recipe
from configs.gridnet import GridNet
from segjax.models.heads.grid import GridSettings

EPOCH = 117_266 // 64

RECIPE = Recipe(
    model=GridNet(
        csp_blocks=(1, 3, 3, 1),
        # Distances of 0 to 16 strides reach boxes of 1 024 pixels on the coarsest map.
        distances="distribution",
        head=GridSettings(score_threshold=0.01),
        dtype="bfloat16",
    ),
    data=Data(
        format="coco",
        root=pathlib.Path("data/coco"),
        train="annotations/instances_train2017.json",
        val="annotations/instances_val2017.json",
        images=("train2017", "val2017", ""),
        buckets=((640, 640),),
        capacity=100,
        scales=(0.5, 1.5),
        color=0.2,
        threads=8,
    ),
    optim=Optim(
        name="adamw",
        lr=4e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup_steps=1000,
        clip_norm=10.0,
        ema_decay=0.9998,
    ),
    steps=100 * EPOCH,
    batch_size=64,
    eval_batch_size=32,
    log_every=50,
    eval_every=10 * EPOCH,
    checkpoint_every=2000,
)
