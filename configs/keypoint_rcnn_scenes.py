"""Keypoint R-CNN from scratch on the stick figures of the generated scenes, sized for two CPU cores.

    python -m train keypoint_rcnn_scenes

18 minutes with the other core taken; box AP 0.51, AP50 0.91; keypoint AP 0.31, AP50 0.64 on 200 held-out images
(docs/results.md). He et al. 2017, section 5, with three keypoint convolutions of 32 channels in place of eight of 512.
"""

import dataclasses

from configs.detectors import KeypointRCNN
from configs.faster_rcnn_scenes import RECIPE as SCENES
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
