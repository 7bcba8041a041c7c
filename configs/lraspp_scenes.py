"""Lite R-ASPP on a narrow MobileNetV3 from scratch on the generated scenes, sized for two CPU cores.

    python -m train lraspp_scenes

Howard et al. 2019 in torchvision's form, of half width.
About four minutes; mIoU 0.222, pixel accuracy 0.821 on 200 held-out images.
"""

import dataclasses

from configs.segmenters import LRASPP
from configs.unet_scenes import RECIPE as SCENES

RECIPE = dataclasses.replace(SCENES, model=LRASPP(width=0.5, channels=64, loss=SCENES.model.loss))
