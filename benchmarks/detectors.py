"""The detectors that are compared: one table, the same weights and the same images for both libraries."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision

from benchmarks.cases import Setting
from benchmarks.ops_cases import proposal_boxes
from benchmarks.random_weights import randomize_detector
from segjax.models.heads.rpn import RPNSettings
from segjax.pretrained import from_torchvision, model
from segjax.pretrained.models import MOBILENET_320_RPN
from segjax.types import Batch, Instances, Model, Variables

CAPACITY, OBJECTS, JOINTS = 32, 8, 17
RESNET_FROZEN = {"backbone.body.conv1": "backbone/stem", "backbone.body.layer1": "backbone/layer1"}
MOBILENET_FROZEN = {"backbone.body.0": "backbone/stem"} | {
    f"backbone.body.{i + 1}": f"backbone/block{i}" for i in range(6)
}
Size = tuple[int, int]


class Detector(NamedTuple):
    """A line of the table."""

    name: str
    """In both libraries."""
    classes: int = 90
    masks: bool = False
    keypoints: bool = False
    frozen: dict[str, str] = RESNET_FROZEN
    """Layers that are not trained, theirs to ours: what torchvision freezes where it starts from trained weights."""
    frozen_norms: bool = True
    """Whether the norms are constants, as torchvision has them from trained weights; its `_v2` trains them."""
    rpn: RPNSettings = RPNSettings()
    """What torchvision has."""
    background: float = 8.0
    """What the background's logit has more than the mean of the others: with this, a hundred detections are found."""
    predict: tuple[Size, ...] = ((480, 640),)
    """(height, width) of the images of inference."""
    channels_last: bool = False
    """Whether inference is also compared with torchvision in that layout."""
    train: Size | None = (480, 640)
    """Of the two images of a training step; None for no such case."""

    def model(self, setting: Setting, **options: Any) -> Model:
        """segjax's."""
        return model(self.name, classes=self.classes, dtype=compute_dtype(setting), **options)

    def variables(self) -> Variables:
        """segjax's weights."""
        return from_torchvision(self.name, random_weights(self))


DETECTORS = {
    "faster_rcnn": Detector("fasterrcnn_resnet50_fpn", predict=((480, 640), (800, 1216)), channels_last=True),
    "faster_rcnn_v2": Detector("fasterrcnn_resnet50_fpn_v2", frozen_norms=False, train=None),
    "faster_rcnn_mobilenet_320": Detector(
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        frozen=MOBILENET_FROZEN,
        rpn=MOBILENET_320_RPN,
        background=4.0,  # of 150 proposals, not 1000
        predict=((320, 448),),
        train=(320, 448),
    ),
    "mask_rcnn": Detector("maskrcnn_resnet50_fpn", masks=True),
    "keypoint_rcnn": Detector("keypointrcnn_resnet50_fpn", classes=1, keypoints=True, background=3.5),
}


class Images(NamedTuple):
    """A batch for each library."""

    batch: Batch
    images: list[torch.Tensor]
    targets: list[dict[str, torch.Tensor]]


def make_images(
    detector: Detector, setting: Setting, count: int, size: Size, *, boxes: np.ndarray | None = None
) -> Images:
    """Coloured patches and noise, floats in 0..1; sides are multiples of 32.

    Args:
        boxes: of the `OBJECTS` objects of each image; anywhere without.
    """
    rng = np.random.default_rng(0)
    (height, width), labels = size, rng.integers(0, detector.classes, (count, OBJECTS))
    patches = rng.uniform(0, 1, (count, height // 32, width // 32, 3)).repeat(32, 1).repeat(32, 2)
    pixels = np.clip(patches + rng.normal(0, 0.1, patches.shape), 0, 1).astype(np.float32)
    boxes = np.array([proposal_boxes(rng, OBJECTS, *size) for _ in range(count)]) if boxes is None else boxes
    # Only what the detector looks at: no program should take, or move, what it does not need.
    masks = np.array([ellipses(of_image, size) for of_image in boxes]) if detector.masks else None
    joints = random_joints(rng, boxes) if detector.keypoints else None
    packed = None if masks is None else np.packbits(masks, axis=-1)
    fields = (boxes, labels.astype(np.int32), np.ones_like(labels, bool), packed, joints)
    instances = Instances(*[x if x is None else _padded(x) for x in fields])
    sizes = np.tile(np.array([size], np.int32), (count, 1))
    batch = Batch(pixels, sizes, instances, np.arange(count, dtype=np.int32))
    images = [torch.from_numpy(p).permute(2, 0, 1).contiguous().to(setting.device) for p in pixels]
    theirs = {"boxes": boxes, "labels": labels.astype(np.int64) + 1, "masks": masks, "keypoints": joints}
    theirs = {name: torch.from_numpy(x).to(setting.device) for name, x in theirs.items() if x is not None}
    return Images(jax.device_put(batch), images, [{name: x[i] for name, x in theirs.items()} for i in range(count)])


def boxes_among_proposals(network: Any, data: Images) -> np.ndarray:
    """Boxes [count, OBJECTS, 4] that many of the proposals in training lie about.

    A trained network proposes many boxes about each object, and what the mask and keypoint heads do goes with their
    number. Random weights cannot know where the objects are; so the objects come to where the proposals are.
    """
    seen: list[list[torch.Tensor]] = []
    hook = network.roi_heads.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    with torch.no_grad():
        network(data.images, data.targets)
    hook.remove()
    return np.array([most_surrounded(boxes).cpu().numpy() for boxes in seen[0]])


def most_surrounded(boxes: torch.Tensor) -> torch.Tensor:
    """The box with most others at an IoU of 0.5 or more; of what is further away again that; `OBJECTS` in all."""
    near, chosen = torchvision.ops.box_iou(boxes, boxes) >= 0.5, []
    for _ in range(OBJECTS):
        chosen.append(int(near.sum(1).argmax()))
        taken = near[chosen[-1]].clone()
        near[taken], near[:, taken] = False, False
    return boxes[chosen].float()


def _padded(x: np.ndarray) -> np.ndarray:
    """Zeros behind the `OBJECTS` of each image."""
    return np.pad(x, [(0, 0), (0, CAPACITY - x.shape[1])] + [(0, 0)] * (x.ndim - 2))


def ellipses(boxes: np.ndarray, size: Size) -> np.ndarray:
    """The largest ellipse in each box, uint8 [n, height, width]."""
    y, x = (np.arange(extent, dtype=np.float32) + 0.5 for extent in size)
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    across, down = ((np.square((at - centre[:, i, None]) / half[:, i, None])) for i, at in ((0, x), (1, y)))
    return (down[:, :, None] + across[:, None, :] <= 1).astype(np.uint8)


def random_joints(rng: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    """(x, y, visibility) of joints anywhere in each box, a third of them not labelled."""
    place = rng.uniform(0, 1, (*boxes.shape[:-1], JOINTS, 2))
    at = boxes[..., None, :2] + place * (boxes[..., None, 2:] - boxes[..., None, :2])
    return np.concatenate([at, rng.integers(0, 3, (*at.shape[:-1], 1))], axis=-1).astype(np.float32)


def _make(detector: Detector) -> Any:
    """torchvision's as it is drawn. Images reach it at the size they have: resizing is not what is compared."""
    make = getattr(torchvision.models.detection, detector.name)
    made = make(weights=None, weights_backbone=None, num_classes=detector.classes + 1)
    made.transform.resize = lambda image, target=None: (image, target)
    return made


@functools.cache
def _random_weights(name: str) -> dict[str, torch.Tensor]:
    detector = next(d for d in DETECTORS.values() if d.name == name)
    torch.manual_seed(0)
    made = _make(detector).eval()
    images = make_images(detector, Setting("cpu", "float32"), 1, (256, 320)).images
    with torch.no_grad():
        randomize_detector(made, images, background=detector.background)
    return made.state_dict()


def random_weights(detector: Detector) -> dict[str, torch.Tensor]:
    """A state dict with which the detector behaves like a trained one (`benchmarks.random_weights`)."""
    return _random_weights(detector.name)


def torch_detector(detector: Detector, setting: Setting, *, channels_last: bool = False) -> Any:
    """torchvision's, with those norms and first layers frozen that are when one fine-tunes it."""
    made = _make(detector)
    made.load_state_dict(random_weights(detector))
    if detector.frozen_norms:
        freeze_norms(made)
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(f"{layer}." for layer in detector.frozen)))
    made = made.to(setting.device)
    return made.to(memory_format=torch.channels_last) if channels_last else made


def freeze_norms(network: Any) -> None:
    """Replaces each batch norm by torchvision's frozen one of the same numbers."""
    for parent in list(network.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, torch.nn.BatchNorm2d):
                frozen = torchvision.ops.FrozenBatchNorm2d(norm.num_features, eps=norm.eps)
                frozen.load_state_dict(norm.state_dict())
                setattr(parent, name, frozen)


def compute_dtype(setting: Setting) -> Any:
    """Of segjax's convolutions and matrix products."""
    return jnp.bfloat16 if setting.precision == "bfloat16" else jnp.float32
