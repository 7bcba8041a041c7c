"""U-Net from scratch on the generated scenes, sized for two CPU cores.

    python -m train unet_scenes

About four minutes; mIoU 0.658, pixel accuracy 0.938 on 200 held-out images. Ronneberger et al. 2015 with a quarter of
the channels, batch norm, and deep supervision.
"""

from configs.base import Data, Optim, Recipe
from configs.historic_segmenters import UNet
from segjax.models.segmenter import PixelLoss

RECIPE = Recipe(
    # Four fifths of the pixels are background: Dice counts nothing but overlap. Group norm would take twice as long a
    # step on a CPU. With deep supervision the narrow finest level learns classes sooner (docs/results.md).
    model=UNet(width=16, norm="batch", dropout=0.0, deep_supervision=True, loss=PixelLoss(dice=1.0)),
    # Half the size of the files: four times the images in the same minutes, and it is images that it takes to tell
    # shapes apart. Scores are of the pixels of the files nevertheless.
    data=Data(buckets=((64, 80), (80, 64)), flip=0.5),
    optim=Optim(name="adamw", lr=3e-3, weight_decay=0.05, schedule="cosine", warmup_steps=50, clip_norm=10.0),
    steps=1200,
    batch_size=8,
    eval_batch_size=8,
    log_every=20,
    checkpoint_every=200,
)
