"""FCN-8s on VGG-16 on CamVid: 367 images of 360 x 480 pixels, 11 classes, void not counted; from ImageNet weights.

    python -m train fcn_camvid --data.root /data/CamVid --model.stride 32 --start.weights vgg16.pth --run runs/fcn32s
    python -m train fcn_camvid --data.root /data/CamVid --model.stride 16 --start.runs runs/fcn32s --optim.lr 1e-5 \\
        --run runs/fcn16s
    python -m train fcn_camvid --data.root /data/CamVid --start.runs runs/fcn16s --optim.lr 1e-5 --run runs/fcn8s
    python -m train.evaluate runs/fcn8s --part test

The optimiser is that of Long et al. 2015, section 4.3: SGD at a constant rate, 20 images a step. 300 passes a stage is
ours. Jegou et al. 2017, table 3, report 57.0 mIoU on the 233 test images for FCN-8s from ImageNet weights. The data are
those of SegNet's authors, with list files of image and mask paths. Not run here: it wants a GPU for some hours and the
ImageNet weights of torchvision's VGG16. `--model.skip-scales 1e-2 1e-4 --start.weights vgg16.pth` trains FCN-8s in one
run (Shelhamer et al. 2017).
"""

import dataclasses

from configs.base import Optim
from configs.segmenters import FCNVGG16
from configs.segnet_camvid import RECIPE as SEGNET

RECIPE = dataclasses.replace(
    SEGNET,
    model=FCNVGG16(dtype="bfloat16"),
    optim=Optim(lr=1e-4, momentum=0.9, weight_decay=5e-4, schedule="constant", warmup_steps=0),
    steps=300 * 367 // 20,
    batch_size=20,
    eval_every=500,
    checkpoint_every=500,
)
