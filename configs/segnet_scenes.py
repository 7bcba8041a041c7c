"""SegNet from scratch on the generated scenes, sized for two CPU cores.

    python -m train segnet_scenes

Not trained to its end yet. Badrinarayanan et al. 2017 with a fifth of the channels; with the options `--model.form
deconvnet --model.hidden 128` it has the decoder of Noh et al. 2015.
"""

import dataclasses

from configs.historic_segmenters import SegNet
from configs.unet_scenes import RECIPE as SCENES

RECIPE = dataclasses.replace(SCENES, model=SegNet(width=16, stages=4, deep_supervision=True, loss=SCENES.model.loss))
