"""Classification and localization of the main object from scratch on the generated scenes, for two CPU cores.

python -m train localization_scenes
"""

from configs.base import Data, Optim, Recipe
from configs.localizers import Localizer

RECIPE = Recipe(
    model=Localizer(
        norm="group",
        width=0.5,
        hidden=(256, 256),
        dropout=0.2,
    ),
    data=Data(buckets=((128, 160), (160, 128)), main_object=True, capacity=1, flip=0.5, scales=(0.8, 1.25)),
    optim=Optim(name="adamw", lr=1e-3, weight_decay=0.05, schedule="cosine", warmup_steps=50, clip_norm=10.0),
    loss_weights=(("box", 10.0),),
    steps=3000,
    batch_size=8,
    eval_batch_size=8,
    log_every=50,
    checkpoint_every=1000,
)
