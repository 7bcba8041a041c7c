"""The multi-scale network from scratch on the generated scenes, sized for two CPU cores.

    python -m train multi_scale_scenes

About three minutes beside other programs; mIoU 0.228, and 0.239 after superpixels have tidied up, on 200 held-out
images. Farabet et al. 2013 with smaller layers.
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
