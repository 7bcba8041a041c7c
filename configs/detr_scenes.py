"""DETR on the generated scenes, sized for two CPU cores.

    python -m train faster_rcnn_scenes
    python -m train detr_scenes --start.runs runs/faster_rcnn_scenes --run runs/detr_from_faster_scenes

Carion et al. 2020 in a small form: a ResNet-18 of half width down to stride 16, two encoder and three decoder layers of
128 channels, 20 queries, no dropout. DETR is slow to learn where its queries look: the paper trains for 500 epochs and
this for 20, at five times the rate. It begins with the backbone of a trained Faster R-CNN, which has the same shape,
and so has the transformer to learn: AP50 0.113 after eleven minutes of processor time, the losses still falling, in
images of few objects and of many alike. From random weights, at a rate of 1e-3, no class was learnt in 2000 steps.
"""

import dataclasses

from configs.base import Optim
from configs.faster_rcnn_scenes import RECIPE as SCENES
from configs.set_prediction import DETR

RECIPE = dataclasses.replace(
    SCENES,
    model=DETR(
        depth=18,
        norm="group",
        width=32,
        # No object fills the picture: the last, largest stage is left out, and tokens stand 16 pixels apart.
        stage=3,
        queries=20,
        channels=128,
        encoder_layers=2,
        decoder_layers=3,
        heads=4,
        hidden=256,
        dropout=0.0,
    ),
    # Norms behind the sums do not bear a larger rate. A backbone that is trained already moves less, as in the paper.
    optim=Optim(
        name="adamw",
        lr=5e-4,
        weight_decay=1e-4,
        schedule="cosine",
        warmup_steps=100,
        clip_norm=1.0,
        factors=(("backbone", 0.2),),
    ),
    steps=3000,
    log_every=50,
    checkpoint_every=500,
)
