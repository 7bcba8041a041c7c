"""SPP-net from scratch on the generated scenes, in stages: an R-CNN in place of ImageNet, then as R-CNN is trained.

    python -m train sppnet_scenes

The proposals are those of `rcnn_scenes`, and so is the backbone, but for its norms. He et al. 2014 train hidden layers
alone, on convolutions that were trained to classify images; here these are an R-CNN's, trained on regions for as long
as `rcnn_scenes` is. On one CPU core that takes 10 minutes, fine-tuning 2 (AP 0.420, AP50 0.738 by its softmax), the
features 1 and 570 MiB, SVMs and ridge regression 40 seconds: AP 0.474, AP50 0.760.
"""

import dataclasses

from configs.rcnn import SPPNet
from configs.rcnn_scenes import RECIPE as RCNN_SCENES
from segjax.models.heads.roi import SamplingSettings

RECIPE = dataclasses.replace(
    RCNN_SCENES,
    model=SPPNet.of(
        RCNN_SCENES.model,
        pool=SPPNet().pool,
        # Convolutions that learn on regions of 48 pixels then see whole images, and stay as they are: of the statistics
        # of a region, as group norm has them, there is nothing in an image.
        norm="batch",
        # A region costs next to nothing beside the image.
        sampling=SamplingSettings(samples=64, positive_fraction=0.5),
        pretrain_steps=RCNN_SCENES.steps,
        pretrain_pool=RCNN_SCENES.model.pool,
        pretrain_sampling=RCNN_SCENES.model.sampling,
    ),
    optim=dataclasses.replace(RCNN_SCENES.optim, freeze=("backbone",)),
    steps=500,
)
