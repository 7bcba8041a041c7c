"""torchvision's RetinaNet and FCOS with random weights, the same in segjax, and a step of training of both."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision

from benchmarks.random_weights import randomize_pyramid_detector
from segjax.pretrained import from_torchvision, model
from segjax.pretrained.convert import apply_rules
from segjax.pretrained.models import SINGLE_SHOT
from segjax.types import Model, Variables
from tests.parity.conftest import CLASSES, Objects, as_targets, as_torch, random_images
from tests.parity.detectors import TINY, Step, biased

NAMES = {"retinanet_resnet50_fpn": -9.5, "retinanet_resnet50_fpn_v2": -9.5, "fcos_resnet50_fpn": -6.5}
"""The detectors, and the mean of their class logits with which some hundred pairs of an image pass the threshold."""
LOSSES = {"classification": "class", "bbox_regression": "box", "bbox_ctrness": "centerness"}


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


def torch_step(pair: Pair, images: list[np.ndarray], objects: list[Objects]) -> Step:
    """A step of torchvision's detector: norms by the batch where ours are trained, as constants elsewhere."""
    detector, trained, counts = pair.torch, "batch_stats" in pair.variables, {}
    norms = {name: m for name, m in detector.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    count = lambda name: lambda _, x, __: counts.update({name: x[0].numel() // x[0].shape[1]})  # noqa: E731
    hooks = [norm.register_forward_hook(count(name)) for name, norm in norms.items()]
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    detector.train()
    for norm in norms.values():
        norm.train(trained)
    detector.zero_grad()
    losses = detector(as_torch(images), as_targets(objects))
    sum(torch.log(loss + TINY) for loss in losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in detector.named_parameters()}
    after = biased(before, detector.state_dict(), counts) if trained else {}
    detector.load_state_dict(before)
    detector.eval()
    for hook in hooks:
        hook.remove()
    rules = SINGLE_SHOT[pair.name].rules()
    return Step(
        {LOSSES[name]: value.item() for name, value in losses.items()},
        apply_rules(rules, gradients, name="the gradients")["params"],
        apply_rules(rules, after, name="the statistics").get("batch_stats", {}),
    )
