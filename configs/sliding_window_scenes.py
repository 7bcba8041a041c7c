"""A classifier of patches from scratch on the generated scenes, sized for two CPU cores.

    python -m train sliding_window_scenes

About ten minutes; mIoU 0.240, pixel accuracy 0.792 on 200 held-out images. Predictions are made
convolutionally; `--model.inference windows` gives the same ones window by window (docs/sliding_window.md).
"""

import dataclasses

from configs.historic_segmenters import SlidingWindow
from configs.unet_scenes import RECIPE as SCENES

RECIPE = dataclasses.replace(
    SCENES,
    model=SlidingWindow(stride=2),
    # Without norms the rate of the others is too high.
    optim=dataclasses.replace(SCENES.optim, lr=1e-3),
)
