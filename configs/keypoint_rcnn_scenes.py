"""Keypoint R-CNN from scratch on the stick figures of the generated scenes, sized for two CPU cores.

python -m train keypoint_rcnn_scenes
"""

import dataclasses

from configs.faster_rcnn_scenes import RECIPE as SCENES
from configs.models import KeypointRCNN
from segjax.models.heads.roi import PoolSettings

RECIPE = dataclasses.replace(
    SCENES,
    model=KeypointRCNN.of(
        SCENES.model,
        # Few figures in an image: 16 positive regions are plenty.
        sampling=dataclasses.replace(SCENES.model.sampling, samples=32),
        keypoint_channels=(32, 32, 32),
        keypoint_pool=PoolSettings(size=14, canonical_size=112.0),
    ),
)
