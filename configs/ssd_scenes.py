"""SSD from scratch on the generated scenes, sized for two CPU cores.

    python -m train ssd_scenes

About eleven minutes of processor time; AP 0.391, AP50 0.691 on 200 held-out images.
Liu et al. 2016; a VGG16 of a quarter of the width with group norm, since it starts from random weights, and four maps.
"""

from configs.base import Data, Optim, Recipe
from configs.ssd import SSD
from segjax.models.heads.ssd import PriorSettings, SSDSettings

RECIPE = Recipe(
    model=SSD(
        width=16,
        norm="group",
        priors=PriorSettings(
            # Scenes have objects of 20 to 110 pixels, in images of 128 x 160.
            scales=(0.14, 0.25, 0.42, 0.62, 0.85),
            ratios=((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0,)),
            steps=(),
        ),
        ssd=SSDSettings(candidates=100, detections=50),
    ),
    data=Data(buckets=((128, 160), (160, 128)), capacity=10, flip=0.5),
    optim=Optim(name="adamw", lr=1e-3, weight_decay=0.05, schedule="cosine", warmup_steps=50, clip_norm=10.0),
    steps=1300,
    batch_size=8,
    eval_batch_size=8,
    log_every=20,
    checkpoint_every=200,
)
