"""OverFeat on Pascal VOC 2007 and 2012, of about the size of the paper's fast network.

    python -m train overfeat_voc --data.root /data/VOC0712

The folder is that of `ssd300_voc`. Sermanet et al. 2014 train the convolutions on ImageNet's classes first and report
detection on ILSVRC 2013 alone, so that there is no score to expect of this: it starts from random weights, with layer
norm. Not run: its shapes are checked by tracing. It wants a GPU.
"""

import pathlib

from configs.base import Data, Optim, Recipe
from configs.overfeat import OverFeat

RECIPE = Recipe(
    model=OverFeat(norm="layer", dtype="bfloat16"),
    data=Data(
        format="voc",
        root=pathlib.Path("data/VOC0712"),
        train="trainval",
        val="test",
        buckets=((384, 512), (512, 384), (448, 448)),
        capacity=64,
        color=0.4,
        threads=8,
    ),
    optim=Optim(lr=5e-3, momentum=0.6, weight_decay=1e-5, warmup_steps=1000, clip_norm=10.0),
    steps=60_000,
    batch_size=16,
    eval_batch_size=4,
    log_every=50,
    eval_every=10_000,
    checkpoint_every=2000,
)
