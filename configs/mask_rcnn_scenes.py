"""Mask R-CNN from scratch on the generated scenes, sized for two CPU cores.

    python -m train mask_rcnn_scenes

17 minutes with the other core taken; box AP 0.66; mask AP 0.55, AP50 0.84 on 200 held-out images (docs/results.md).
He et al. 2017, with half as many mask convolutions of an eighth of the channels.
"""

import dataclasses

from configs.detectors import MaskRCNN
from configs.faster_rcnn_scenes import RECIPE as SCENES
from segjax.models.heads.roi import PoolSettings

RECIPE = dataclasses.replace(
    SCENES,
    model=MaskRCNN.of(SCENES.model, mask_channels=(32, 32), mask_pool=PoolSettings(size=14, canonical_size=112.0)),
)
