"""A torchvision Faster R-CNN with random weights that detects something, and the same detector in segjax.

Weights as they are drawn would not do: every score would be the same, no box would pass a threshold, and comparing
two empty lists shows nothing. So the statistics of the norms are measured on random images and then perturbed, and the
last layers are scaled and shifted until scores spread over (0.05, 0.99) and boxes move by a good part of their size.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest

from segjax.models.heads.box import BoxSettings
from segjax.models.heads.rpn import RPNSettings
from segjax.pretrained import from_torchvision, model
from segjax.types import Batch, Instances, Model, Variables

CLASSES = 10
CAPACITY = 8
EVERY_ANCHOR = 12_288
"""More than a 192 x 256 image has: with a positive fraction of 1, sampling takes every anchor on both sides."""
RPN = RPNSettings(samples=EVERY_ANCHOR, positive_fraction=1.0, candidates=(200, 300), proposals=(100, 120))
BOX = BoxSettings(samples=128, positive_fraction=1.0, detections=80)
SCORE_DEVIATION, BACKGROUND = 1.5, 2.0
"""Deviation of the class logits over regions, and what the background's has more."""
TORCHVISION_SETTINGS = {
    "rpn_batch_size_per_image": RPN.samples,
    "rpn_positive_fraction": RPN.positive_fraction,
    "rpn_pre_nms_top_n_train": RPN.candidates[0],
    "rpn_pre_nms_top_n_test": RPN.candidates[1],
    "rpn_post_nms_top_n_train": RPN.proposals[0],
    "rpn_post_nms_top_n_test": RPN.proposals[1],
    "box_batch_size_per_image": BOX.samples,
    "box_positive_fraction": BOX.positive_fraction,
    "box_detections_per_img": BOX.detections,
}


class Pair(NamedTuple):
    """One detector twice."""

    torch: Any
    model: Model
    variables: Variables


def random_images(rng: np.random.Generator, *sizes: tuple[int, int]) -> list[np.ndarray]:
    """Images of coloured patches and noise, uint8: something that features can differ on."""

    def image(height, width):
        patches = rng.uniform(0, 255, (-(-height // 32), -(-width // 32), 3)).repeat(32, 0).repeat(32, 1)
        return np.clip(patches[:height, :width] + rng.normal(0, 30, (height, width, 3)), 0, 255).astype(np.uint8)

    return [image(*size) for size in sizes]


def random_objects(rng: np.random.Generator, size: tuple[int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes from small to half the image, and their 0-based classes."""
    limits = np.asarray(size[::-1], np.float32)
    corner = rng.uniform(0, 0.5, (count, 2)) * limits
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.5, (count, 2)) * limits], axis=1)
    return boxes.astype(np.float32), rng.integers(0, CLASSES, count).astype(np.int32)


def as_batch(images: list[np.ndarray], objects: list[tuple[np.ndarray, np.ndarray]] | None = None) -> Batch:
    """Images in the corner of the smallest batch whose sides are multiples of 32, as torchvision batches them."""
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    height, width = -(-sizes.max(axis=0) // 32) * 32
    # What the padding holds must not matter: torchvision pads with zeros after normalising.
    canvas = np.full((len(images), height, width, 3), 77, np.uint8)
    boxes = np.zeros((len(images), CAPACITY, 4), np.float32)
    labels, valid = np.zeros((len(images), CAPACITY), np.int32), np.zeros((len(images), CAPACITY), bool)
    for i, image in enumerate(images):
        canvas[i, : image.shape[0], : image.shape[1]] = image
    for i, (b, c) in enumerate(objects or []):
        boxes[i, : len(b)], labels[i, : len(b)], valid[i, : len(b)] = b, c, True
    return Batch(canvas, sizes, Instances(boxes, labels, valid), np.arange(len(images), dtype=np.int32))


def as_torch(images: list[np.ndarray]) -> list[Any]:
    """Images as torchvision's models take them."""
    import torch

    return [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images]


def as_targets(objects: list[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    """Objects as torchvision's models take them: class 0 is the background."""
    import torch

    return [
        {"boxes": torch.from_numpy(b).reshape(-1, 4), "labels": torch.from_numpy(c.astype(np.int64)) + 1}
        for b, c in objects
    ]


def randomize_norms(network: Any, run: Any) -> None:
    """Gives every batch norm in `network` the statistics of `run()`, somewhat off, and a random scale and shift."""
    import torch

    norms = {name: m for name, m in network.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    for name, norm in norms.items():
        torch.nn.init.uniform_(norm.weight, 0.6, 1.2)
        # Branches that add a little to the trunk, as in trained networks: full ones amplify rounding by 30.
        norm.weight.mul_(0.2 if name.endswith("bn3") else 1)
        torch.nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = 1.0
    network.train()
    run()
    for norm in norms.values():
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.7, 1.4))
        norm.running_mean.add_(0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_var))
    network.eval()


def spread(layer: Any, deviation: float, run: Any) -> None:
    """Scales and shifts a last layer so that each of its channels has mean 0 and this deviation during `run()`."""
    import torch

    seen = []
    hook = layer.register_forward_hook(lambda _, __, out: seen.append(out.movedim(1, -1).reshape(-1, out.shape[1])))
    run()
    hook.remove()
    outputs = torch.cat(seen)
    scale = deviation / outputs.std(0)
    layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
    layer.bias.copy_((layer.bias - outputs.mean(0)) * scale)


def random_torch_model() -> Any:
    """`fasterrcnn_resnet50_fpn` as described at the top of this file, in evaluation mode."""
    import torch
    import torchvision

    torch.manual_seed(0)
    detector = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, **TORCHVISION_SETTINGS
    ).eval()
    # Images reach both networks at their own size.
    detector.transform.resize = lambda image, target=None: (image, target)
    images = as_torch(random_images(np.random.default_rng(7), (128, 160), (160, 128)))
    rpn, heads = detector.rpn, detector.roi_heads
    with torch.no_grad():
        batch, _ = detector.transform(images)
        randomize_norms(detector.backbone, lambda: detector.backbone(batch.tensors))
        features = detector.backbone(batch.tensors)
        spread(rpn.head.cls_logits, 1.5, lambda: rpn(batch, features))
        spread(rpn.head.bbox_pred, 0.3, lambda: rpn(batch, features))
        proposals, _ = rpn(batch, features)
        run = lambda: heads(features, proposals, batch.image_sizes)  # noqa: E731
        spread(heads.box_predictor.cls_score, SCORE_DEVIATION, run)
        spread(heads.box_predictor.bbox_pred, 1.0, run)
        # Most regions are background: a few dozen boxes of an image pass, and not always as many as there is room for.
        heads.box_predictor.cls_score.bias[0] += BACKGROUND
    return detector


@pytest.fixture(scope="session")
def pair() -> Pair:
    """The detector in torchvision and, through its state dict, in segjax."""
    pytest.importorskip("torchvision")
    detector = random_torch_model()
    name = "fasterrcnn_resnet50_fpn"
    return Pair(detector, model(name, classes=CLASSES, rpn=RPN, box=BOX), from_torchvision(name, detector.state_dict()))
