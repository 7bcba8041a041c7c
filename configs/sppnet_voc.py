"""SPP-net on VGG16 on Pascal VOC 2007 trainval: hidden layers fine-tuned on convolutions that stay ImageNet's.

    python -m train sppnet_voc --data.root /data/VOC2007 --start.weights vgg16-397923af.pth

The data, the proposals and the weights are those of `rcnn_voc`. He et al. 2014 report 59.2 mAP on VOC 2007 test with
five scales and a network like Zeiler and Fergus's; Girshick 2015 63.1 for SPP-net on VGG16, with five scales too. This
is the form of one scale, about 800 pixels on the shorter side. Checked by tracing alone: it wants a GPU.
"""

import dataclasses

from configs.rcnn import SPPNet
from configs.rcnn_voc import RECIPE as RCNN_VOC
from segjax.models.heads.roi import SamplingSettings

RECIPE = dataclasses.replace(
    RCNN_VOC,
    # As many regions of an image as of R-CNN's: what is pooled of one image is cheap, but 128 a step are the paper's.
    model=SPPNet(sampling=SamplingSettings(negatives=(0.1, 0.5), samples=16), dtype="bfloat16"),
    data=dataclasses.replace(RCNN_VOC.data, buckets=((800, 1088), (1088, 800))),
    optim=dataclasses.replace(RCNN_VOC.optim, freeze=("backbone",)),
)
