"""U-Net on CamVid: 367 images of 360x480, eleven classes, void not counted.

    python -m train unet_camvid --data.root /data/CamVid

Ronneberger et al. 2015 with all of its channels and its dropout. The paper trains on cells, one large tile a step at a
momentum of 0.99, from random weights; adapted to street scenes, convolutions are padded and followed by batch norm, a
step sees eight whole images at a momentum of 0.9, and the weights of pixels between touching cells, which need
instances, are left out. Not run here: it wants a GPU.
"""

import dataclasses

from configs.base import Optim, Start
from configs.historic_segmenters import UNet
from configs.segnet_camvid import RECIPE as CAMVID

RECIPE = dataclasses.replace(
    CAMVID,
    model=UNet(norm="batch"),
    data=dataclasses.replace(CAMVID.data, scales=(0.75, 1.5)),
    optim=Optim(lr=0.05, momentum=0.9, weight_decay=1e-4, schedule="cosine", warmup_steps=500),
    start=Start(),
    steps=20_000,
    batch_size=8,
)
