"""Recurrent refinement from scratch on the generated scenes, sized for two CPU cores.

    python -m train refinement_scenes

About three minutes; mIoU 0.329, pixel accuracy 0.857 on 200 held-out images. Pinheiro and Collobert 2014 with two
iterations and batch norm; `loss/cross_entropy_1` is the first one's loss.
"""

import dataclasses

from configs.historic_segmenters import Refinement
from configs.unet_scenes import RECIPE as SCENES

RECIPE = dataclasses.replace(
    SCENES,
    model=Refinement(channels=(16, 32, 64), kernel=5, norm="batch", loss=SCENES.model.loss),
)
