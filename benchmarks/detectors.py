"""What a detector of the comparison is; the same weights and the same images for both libraries.

What stages and heads have of their own is in `two_stage_detectors` and `single_shot_detectors`, with the tables.
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision

from benchmarks.cases import Setting
from benchmarks.ops_cases import proposal_boxes
from segjax.pretrained import from_torchvision, model
from segjax.types import Batch, Instances, Model, Variables

CAPACITY, OBJECTS, JOINTS = 32, 8, 17
RESNET_FROZEN = (("backbone.body.conv1", "backbone/stem"), ("backbone.body.layer1", "backbone/layer1"))
CPU = Setting("cpu", "float32")
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detector(abc.ABC):
    """A line of the table."""

    name: str
    """In both libraries."""
    classes: int = 90
    masks: bool = False
    keypoints: bool = False
    frozen: tuple[tuple[str, str], ...] = RESNET_FROZEN
    """(theirs, ours) of layers not trained: what torchvision freezes where it starts from trained weights."""
    frozen_norms: bool = True
    """Whether the norms are constants, as torchvision has them from trained weights; its `_v2` trains them."""
    predict: tuple[Size, ...] = ((480, 640),)
    """(height, width) of the images of inference."""
    channels_last: bool = False
    """Whether inference is also compared with torchvision in that layout."""
    train: Size | None = (480, 640)
    """Of the images of a training step; None for no such case."""
    count: int = 2
    """Images of a training step."""
    quick: Size = (192, 256)
    """Of the images of a quick run, and of those whose losses are compared."""

    losses: ClassVar[dict[str, str]]
    """The terms in training, ours to theirs."""

    @property
    def few(self) -> int:
        """Images of a quick step: norms by the batch need several values, and a map may have one an image."""
        return 1 if self.frozen_norms else 2

    def model(self, setting: Setting, **options: Any) -> Model:
        """segjax's."""
        return model(self.name, classes=self.classes, dtype=compute_dtype(setting), **options)

    def variables(self) -> Variables:
        """segjax's weights."""
        return from_torchvision(self.name, random_weights(self))

    @abc.abstractmethod
    def randomize(self, network: Any) -> None:
        """Gives torchvision's `network` weights that make it do something (`benchmarks.random_weights`)."""

    @abc.abstractmethod
    def background(self, network: Any) -> int:
        """Parameters of those of torchvision's outputs for the background that segjax is without."""

    @abc.abstractmethod
    def count_work(self, network: Any, run: Any) -> dict[str, int]:
        """What the work of torchvision's `network` in `run()` amounts to, by what it is called in a report."""

    def place_objects(self, network: Any, data: "Images") -> np.ndarray | None:
        """Boxes [count, OBJECTS, 4] of the objects to train on; None for anywhere."""
        del network, data

    def settle_objects(self, network: Any, data: "Images") -> np.ndarray | None:
        """The same where losses are compared: where rounding does not decide what an object belongs to."""
        del network, data

    def sample_few(self, network: Any) -> dict[str, Any]:
        """Has `network` train on as little as goes for a quick step; the options with which segjax's does so."""
        del network
        return {}

    def sample_all(self, network: Any) -> dict[str, Any]:
        """Leaves nothing to chance in the losses of `network`; the options with which segjax's does so."""
        del network
        return {}


class Images(NamedTuple):
    """A batch for each library."""

    batch: Batch
    images: list[torch.Tensor]
    targets: list[dict[str, torch.Tensor]]


def make_images(
    detector: Detector, setting: Setting, count: int, size: Size, *, boxes: np.ndarray | None = None
) -> Images:
    """Coloured patches of 32 pixels and noise, floats in 0..1.

    Args:
        boxes: of the `OBJECTS` objects of each image; anywhere without.
    """
    rng = np.random.default_rng(0)
    (height, width), labels = size, rng.integers(0, detector.classes, (count, OBJECTS))
    patches = rng.uniform(0, 1, (count, -(-height // 32), -(-width // 32), 3)).repeat(32, 1).repeat(32, 2)
    patches = patches[:, :height, :width]
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


def torch_as_drawn(detector: Detector) -> Any:
    """torchvision's as it is drawn. Images reach it at the size they have: resizing is not what is compared."""
    make = getattr(torchvision.models.detection, detector.name)
    made = make(weights=None, weights_backbone=None, num_classes=detector.classes + 1)
    made.transform.resize = lambda image, target=None: (image, target)
    return made


@functools.cache
def random_weights(detector: Detector) -> dict[str, torch.Tensor]:
    """A state dict with which the detector behaves like a trained one (`benchmarks.random_weights`)."""
    torch.manual_seed(0)
    made = torch_as_drawn(detector).eval()
    with torch.no_grad():
        detector.randomize(made)
    return made.state_dict()


def torch_detector(detector: Detector, setting: Setting, *, channels_last: bool = False) -> Any:
    """torchvision's, with those norms and first layers frozen that are when one fine-tunes it."""
    made = torch_as_drawn(detector)
    made.load_state_dict(random_weights(detector))
    if detector.frozen_norms:
        freeze_norms(made)
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(f"{layer}." for layer, _ in detector.frozen)))
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
