"""SSD512 on VGG16 on Pascal VOC 2007 and 2012, the authors' settings; otherwise `ssd300_voc`, whose docstring see.

    python -m train ssd512_voc --data.root /data/VOC0712 --start.weights vgg16_features-amdegroot-88682ab5.pth

Liu et al. 2016, with the augmentation of section 3.6, reports 79.8 mAP on VOC 2007 test. Not run here: it wants a GPU
for days and those weights.
"""

import dataclasses

from configs.ssd300_voc import RECIPE as SSD300
from segjax.models.ssd import SSD512_VOC

RECIPE = dataclasses.replace(
    SSD300,
    model=dataclasses.replace(SSD300.model, form="512", priors=SSD512_VOC),
    data=dataclasses.replace(SSD300.data, buckets=((512, 512),)),
)
