"""SegNet from scratch on the generated scenes, sized for two CPU cores.

    python -m train segnet_scenes

About four minutes; mIoU 0.491, pixel accuracy 0.901 on 200 held-out images. Badrinarayanan et al. 2017 with a quarter
of the channels, the first four stages, and deep supervision; with the options `--model.form deconvnet --model.hidden
128` it has the decoder of Noh et al. 2015.
"""

import dataclasses

from configs.historic_segmenters import SegNet
from configs.unet_scenes import RECIPE as SCENES

RECIPE = dataclasses.replace(SCENES, model=SegNet(width=16, stages=4, deep_supervision=True, loss=SCENES.model.loss))
