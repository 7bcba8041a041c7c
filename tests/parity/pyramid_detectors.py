"""torchvision's RetinaNet and FCOS with random weights, the same in segjax."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision

from benchmarks.random_weights import randomize_pyramid_detector
from segjax.pretrained import from_torchvision, model
from segjax.types import Model, Variables
from tests.parity.conftest import CLASSES, as_torch, random_images

NAMES = {"retinanet_resnet50_fpn": -9.5, "retinanet_resnet50_fpn_v2": -9.5, "fcos_resnet50_fpn": -6.5}
"""The detectors, and the mean of their class logits with which some hundred pairs of an image pass the threshold."""


class Pair(NamedTuple):
    """One detector twice."""

    name: str
    torch: Any
    model: Model
    variables: Variables


def make_pair(name: str) -> Pair:
    """The detector called `name` in torchvision and, through its state dict, in segjax, with its own defaults."""
    torch.manual_seed(0)
    make = getattr(torchvision.models.detection, name)
    detector = make(weights=None, weights_backbone=None, num_classes=CLASSES + 1).eval()
    # Images reach both networks at their own size.
    detector.transform.resize = lambda image, target=None: (image, target)
    with torch.no_grad():
        images = as_torch(random_images(np.random.default_rng(7), *4 * [(160, 192)]))
        randomize_pyramid_detector(detector, images, logit=NAMES[name])
    return Pair(name, detector, model(name, classes=CLASSES), from_torchvision(name, detector.state_dict()))
