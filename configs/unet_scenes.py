"""U-Net from scratch on the generated scenes, sized for two CPU cores.

    python -m train unet_scenes

About five minutes. Ronneberger et al. 2015 with an eighth of the channels, one level more, and batch norm to
learn in so few steps.
"""

from configs.base import Data, Optim, Recipe
from configs.historic_segmenters import UNet
from segjax.models.segmenter import PixelLoss

RECIPE = Recipe(
    model=UNet(width=8, levels=5, norm="batch", dropout=0.0, loss=PixelLoss(dice=1.0)),
    data=Data(buckets=((128, 160), (160, 128)), flip=0.5),
    optim=Optim(name="adamw", lr=3e-3, weight_decay=0.05, schedule="cosine", warmup_steps=50, clip_norm=10.0),
    steps=1500,
    batch_size=4,
    eval_batch_size=8,
    log_every=20,
    checkpoint_every=200,
)
