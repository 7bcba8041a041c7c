"""R-CNN from scratch on the generated scenes, in stages: fine-tuning, features on disk, SVMs, box regression.

    python -m train rcnn_scenes

The proposals are selective search's, data/scenes/selective_search_{train,val}.npz; others are named by
--data.proposals. Girshick et al. 2014, on the backbone of `fast_rcnn_scenes`, which every region of 48x48 pixels runs
through: so this is by far the slowest of the detectors on regions, which is what it is here to show. On one CPU core
fine-tuning takes 11 minutes (AP 0.561, AP50 0.837 by its softmax), the features 8 and 143 MiB, SVMs and ridge
regression three seconds: AP 0.623, AP50 0.834.
"""

import dataclasses

from configs.faster_rcnn_scenes import RECIPE as SCENES
from configs.rcnn import RCNN
from segjax.fitting.linear_svm import SVMSettings
from segjax.models.heads.box import BoxSettings
from segjax.models.heads.roi import PoolSettings, SamplingSettings

BOX = BoxSettings(nms_threshold=0.3, candidates=512, detections=50)
RECIPE = dataclasses.replace(
    SCENES,
    model=RCNN(
        width=0.25,
        # Objects of 20 pixels are little more than one cell of stage 5.
        stage=4,
        norm="group",
        hidden=(128, 128),
        dropout=0.0,
        # After 100 steps the loss was at 1.35; from logits near zero at 1.59, where knowing nothing is 1.73.
        unit_logits=True,
        box=BOX,
        # Half of the regions positive, as in the other recipes of so few steps; the paper has a quarter of 128 in all.
        sampling=SamplingSettings(samples=16, positive_fraction=0.5),
        # The paper's share of context, 16 of 227.
        pool=PoolSettings(kind="warp", size=48, context=3),
        # Of so small a network many regions stay within the margin: fewer fits, on more of them at a time.
        svm=SVMSettings(retrain=10_000),
    ),
    data=dataclasses.replace(
        SCENES.data,
        proposals=("selective_search_train.npz", "selective_search_val.npz", ""),
        proposal_count=192,
    ),
    steps=600,
    checkpoint_every=200,
)
