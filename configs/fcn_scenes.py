"""FCN-8s on a narrow VGG-16 from scratch on the generated scenes, sized for two CPU cores.

    python -m train fcn_scenes

Long et al. 2015, with a quarter of the channels, hidden layers of 128 and batch norm, all trained at once.
"""

from configs.base import Optim, Recipe
from configs.data import Data
from configs.segmenters import FCNVGG16
from segjax.models.segmenter import PixelLoss

RECIPE = Recipe(
    # Four fifths of the pixels are background: what overlap alone counts, Dice does too. Group norm would take twice
    # as long a step on a CPU.
    model=FCNVGG16(width=16, norm="batch", hidden=(128, 128), dropout=0.1, loss=PixelLoss(dice=1.0)),
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
