"""The multi-scale network from scratch on the generated scenes, sized for two CPU cores.

    python -m train multi_scale_scenes

About two minutes; mIoU 0.538, and 0.614 after superpixels have tidied up, on 200 held-out images. Farabet et al. 2013
with smaller layers and batch norm.
"""

import dataclasses

from configs.historic_segmenters import MultiScale
from configs.unet_scenes import RECIPE as SCENES

RECIPE = dataclasses.replace(
    SCENES,
    model=MultiScale(
        channels=(16, 32, 64), kernel=5, norm="batch", hidden=(128,), loss=SCENES.model.loss, clean_up="felzenszwalb"
    ),
)
