"""R-CNN on VGG16 on Pascal VOC 2007 trainval, the paper's settings.

    python -m train rcnn_voc --data.root /data/VOC2007 --start.weights vgg16-397923af.pth

The folder is VOC's own, with JPEGImages, Annotations and ImageSets/Main. proposals_trainval.npz and proposals_test.npz
in it hold about 2000 boxes of selective search an image (`segjax.data.proposals`). The weights are torchvision's
VGG16_Weights.IMAGENET1K_V1, or those of its AlexNet with --model.network alexnet --start.name alexnet.

Girshick et al. 2014: steps of 128 regions, here 16 of each of eight images, at a rate of 1e-3; the authors' released
network had 70 000. Reported on VOC 2007 test: 58.5 mAP with AlexNet, 66.0 with VGG16 (table 3 of the paper's extended
version), each with box regression. The features of the ten million regions take 80 GB on disk, the SVMs and the
regression some hours. Checked by tracing alone: it wants a GPU for days.
"""

import pathlib

from configs.base import Data, Optim, Recipe, Start
from configs.rcnn import RCNN
from segjax.models.heads.roi import SamplingSettings

RECIPE = Recipe(
    model=RCNN(sampling=SamplingSettings(samples=16), dtype="bfloat16"),
    data=Data(
        format="voc",
        root=pathlib.Path("data/VOC2007"),
        train="trainval",
        val="test",
        proposals=("proposals_trainval.npz", "proposals_test.npz", ""),
        proposal_count=2000,
        buckets=((512, 512),),
        capacity=64,
        threads=8,
    ),
    optim=Optim(lr=1e-3, weight_decay=5e-4, schedule="step", milestones=(2 / 7, 4 / 7, 6 / 7), warmup_steps=100),
    start=Start(name="vgg16"),
    steps=70_000,
    batch_size=8,
    eval_batch_size=4,
    log_every=50,
    checkpoint_every=1000,
)
