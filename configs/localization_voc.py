"""Classification and localization of the main object on Pascal VOC, from AlexNet's ImageNet weights.

    python -m train localization_voc --data.root /data/VOC0712 --start.weights alexnet-owt-7be5be79.pth

The folder is that of yolo_v1_voc. The weights are torchvision's AlexNet_Weights.IMAGENET1K_V1, but for the last layer.
Krizhevsky 2014 is the network; there is no published score to compare with, since VOC has no such task: `localization`
is ILSVRC's, of the largest object of each image that is not marked difficult. Images are stretched to 224x224 pixels,
which is what the fully connected layers were trained with. Not run here.
"""

import pathlib

from configs.base import Data, Optim, Recipe, Start
from configs.localizers import Localizer

IMAGES = 5011 + 11_540
"""Of trainval, 2007 and 2012."""
STEPS = 30 * IMAGES // 128

RECIPE = Recipe(
    model=Localizer(),
    data=Data(
        format="voc",
        root=pathlib.Path("data/VOC0712"),
        train="trainval",
        val="test",
        buckets=((224, 224),),
        stretch=True,
        main_object=True,
        capacity=1,
        scales=(0.8, 1.2),
        color=0.4,
        threads=8,
    ),
    start=Start(name="alexnet"),
    optim=Optim(lr=0.01, weight_decay=5e-4, schedule="cosine", warmup_steps=200, clip_norm=10.0),
    # Squared shares of the image are small beside a cross-entropy: a box that is off by a tenth all around gives 0.04.
    loss_weights=(("box", 10.0),),
    steps=STEPS,
    batch_size=128,
    eval_batch_size=128,
    log_every=50,
    eval_every=STEPS // 6,
    checkpoint_every=500,
)
