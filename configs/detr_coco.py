"""DETR R50 on COCO, its authors' settings: 500 epochs at 64 images a step, from ImageNet weights.

    python -m train detr_coco --data.root /data/coco --start.weights resnet50.pth

Carion et al. 2020, section 4 and A.4: AdamW at 1e-4, a tenth of it in the backbone, a tenth of both for the last 100
epochs; table 1 has 42.0 box AP on val2017. Not run here: 300 epochs took the authors three days on 16 V100. Theirs
decays biases and norms too and cuts random windows out of enlarged images half of the time; here no vector decays, and
windows are cut as far as `data.scales` says. With fewer images a step, divide both rates by as much.
"""

import pathlib

from configs.base import Data, Optim, Recipe, Start
from configs.set_prediction import DETR
from segjax.data.buckets import buckets_for

RECIPE = Recipe(
    model=DETR(dtype="bfloat16"),
    data=Data(
        format="coco",
        root=pathlib.Path("data/coco"),
        train="annotations/instances_train2017.json",
        val="annotations/instances_val2017.json",
        images=("train2017", "val2017", ""),
        buckets=buckets_for(800, 1333, steps=3),
        capacity=100,
        scales=(0.6, 1.4),
        threads=8,
    ),
    optim=Optim(
        name="adamw",
        lr=1e-4,
        weight_decay=1e-4,
        milestones=(0.8,),
        warmup_steps=0,
        clip_norm=0.1,
        freeze=("backbone/stem", "backbone/layer1"),
        factors=(("backbone", 0.1),),
    ),
    start=Start(name="resnet50"),
    steps=500 * 117_266 // 64,
    batch_size=64,
    eval_batch_size=8,
    log_every=50,
    eval_every=50 * 117_266 // 64,
    checkpoint_every=2000,
)
