"""FCN-8s on a narrow VGG-16 from scratch on the generated scenes, sized for two CPU cores.

    python -m train fcn_scenes

Long et al. 2015, with a quarter of the channels, hidden layers of 128 and batch norm, all trained at once.
About three minutes; mIoU 0.443, pixel accuracy 0.877 on 200 held-out images.
"""

import dataclasses

from configs.segmenters import FCNVGG16
from configs.unet_scenes import RECIPE as SCENES

RECIPE = dataclasses.replace(
    SCENES,
    model=FCNVGG16(width=16, norm="batch", hidden=(128, 128), dropout=0.1, loss=SCENES.model.loss),
)
