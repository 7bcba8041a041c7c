"""Classification and localization of the main object on the generated scenes, sized for two CPU cores.

    python -m train faster_rcnn_scenes
    python -m train localization_scenes --start.runs runs/faster_rcnn_scenes

The backbone is that of Faster R-CNN, whose weights it starts from: a thousand images, of which nothing is said but the
class of their largest object, are few to learn features from. Of 200 held-out images 0.68 have their class right and
0.58 their box too; five minutes of processor time. An AlexNet of half width, from random weights, had learnt nothing
after 300 steps.
"""

from configs.base import Data, Optim, Recipe
from configs.localizers import Localizer

RECIPE = Recipe(
    model=Localizer(
        form="resnet",
        depth=18,
        norm="group",
        width=0.5,
        stage=3,
        hidden=(256,),
        dropout=0.2,
        pooled=4,
    ),
    data=Data(
        # One size for both orientations: shapes are stretched a little, and no position of the map is padding.
        buckets=((128, 128),),
        stretch=True,
        main_object=True,
        capacity=1,
        flip=0.5,
        scales=(0.9, 1.1),
    ),
    # A larger rate makes the outputs jump: each is a sum over a whole layer.
    optim=Optim(name="adamw", lr=5e-4, weight_decay=0.05, schedule="cosine", warmup_steps=50, clip_norm=10.0),
    # Squared shares of the image are small beside a cross-entropy.
    loss_weights=(("box", 5.0),),
    steps=2000,
    batch_size=8,
    eval_batch_size=8,
    log_every=50,
    checkpoint_every=500,
)
