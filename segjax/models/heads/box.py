"""The box head of Fast R-CNN (Girshick 2015): a class and a refined box for every region of interest."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segjax.losses import masked_sum, safe_divide, smooth_l1, softmax_cross_entropy
from segjax.models.heads.decoding import best_detections
from segjax.models.heads.roi import PoolSettings, RoIs, region_convolutions
from segjax.models.layers.norms import NormName
from segjax.models.layers.resnet import resnet_stage
from segjax.ops import boxes as box_ops
from segjax.types import Detections, Instances, Losses

Regions = Float[Array, "b s h w c"]


@dataclasses.dataclass(frozen=True)
class BoxSettings:
    """The numbers of a box head; the defaults are torchvision's."""

    weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """Weights of (x, y, w, h) in the box deltas."""
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100
    """Detections per image."""
    candidates: int = 4096
    """Best (proposal, class) pairs per image that go into NMS. Only if more pairs than this pass the score threshold
    *and* fewer than `detections` of the best ones survive NMS could a larger number change the result."""
    min_size: float = 1e-2
    """Detections with a smaller side, in pixels, are dropped."""


class BoxOutputs(NamedTuple):
    """What the network says of every region. Column 0 is the background; class id c is column c + 1."""

    logits: Float[Array, "*b s columns"]
    deltas: Float[Array, "*b s columns 4"]


class BoxNetwork(nn.Module):
    """Convolutions over a region's map if there are any, hidden layers over all of it, then classes and deltas.

    Two hidden layers are Fast R-CNN's head (section 2.1, and torchvision's `TwoMLPHead`); four convolutions with a norm
    and one hidden layer that of torchvision's `_v2` detectors (Li et al. 2021).
    """

    classes: int
    hidden: tuple[int, ...] = (1024, 1024)
    convolutions: tuple[int, ...] = ()
    """Channels of each 3x3 convolution."""
    norm: NormName | None = None
    """Behind each convolution."""
    dropout: float = 0.0
    """Share of the hidden units left out in training."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Regions, *, valid: Bool[Array, "b s"], train: bool = False) -> BoxOutputs:
        """Logits and deltas of every region."""
        x = region_convolutions(features, self.convolutions, norm=self.norm, valid=valid, train=train, dtype=self.dtype)
        x = x.reshape(*valid.shape, -1)
        for i, width in enumerate(self.hidden, start=6):
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"fc{i}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return _classes_and_boxes(x, self.classes, self.dtype)


class StageBoxNetwork(nn.Module):
    """A ResNet's last stage on every region, its mean, then classes and deltas (He et al. 2016, appendix A)."""

    classes: int
    depth: int = 50
    norm: NormName = "frozen_batch"
    width: int = 64
    """Of the ResNet's stem."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Regions, *, valid: Bool[Array, "b s"], train: bool = False) -> BoxOutputs:
        """Logits and deltas of every region."""
        stage = resnet_stage(self.depth, 4, norm=self.norm, width=self.width, dtype=self.dtype, name="layer4")
        x = stage(features.reshape(-1, *features.shape[2:]), train=train)
        return _classes_and_boxes(x.mean((1, 2)).reshape(*valid.shape, -1), self.classes, self.dtype)


def _classes_and_boxes(x: Float[Array, "b s features"], classes: int, dtype: DTypeLike) -> BoxOutputs:
    """The last two layers of every box network, of the module that calls this."""
    columns = classes + 1
    logits = nn.Dense(columns, dtype=dtype, kernel_init=nn.initializers.normal(0.01), name="class")(x)
    deltas = nn.Dense(4 * columns, dtype=dtype, kernel_init=nn.initializers.normal(0.001), name="box")(x)
    deltas = deltas.reshape(*deltas.shape[:2], columns, 4)
    return BoxOutputs(logits.astype(jnp.float32), deltas.astype(jnp.float32))


class BoxTargets(NamedTuple):
    """What each region should be."""

    column: Int[Array, "*b s"]
    """Its class's column, 0 for the background."""
    deltas: Float[Array, "*b s 4"]


@dataclasses.dataclass(frozen=True)
class BoxHead:
    """Fast R-CNN's head: regions become detections. A `segjax.models.heads.roi.RoIHead`."""

    network: nn.Module
    """To `BoxOutputs`: a `BoxNetwork`, a `StageBoxNetwork`, or another."""
    settings: BoxSettings = BoxSettings()
    pool: PoolSettings = PoolSettings()
    positives_only: bool = False

    def targets(self, rois: RoIs, instances: Instances, size: Int[Array, "2"]) -> BoxTargets:
        """Class and box deltas of the object that each region was matched to."""
        del size
        column = jnp.where(rois.positive, instances.labels[rois.target] + 1, 0)
        deltas = box_ops.encode(instances.boxes[rois.target], rois.boxes, weights=self.settings.weights)
        return BoxTargets(column, deltas)

    def losses(self, outputs: BoxOutputs, targets: BoxTargets, rois: RoIs) -> Losses:
        """Cross-entropy over all sampled regions and smooth L1 over the positive ones, of their own class's deltas.

        Both are divided by the number of regions sampled in the whole batch, as torchvision does.
        """
        own = jnp.take_along_axis(outputs.deltas, targets.column[..., None, None], axis=2)[:, :, 0]
        classes = masked_sum(softmax_cross_entropy(outputs.logits, targets.column), rois.valid)
        box = masked_sum(smooth_l1(own, targets.deltas, beta=1 / 9).sum(-1), rois.positive)
        count = jnp.sum(rois.valid, dtype=jnp.float32)
        return {"class": safe_divide(classes, count), "box": safe_divide(box, count)}

    def decode(self, outputs: BoxOutputs, detections: Detections, size: Int[Array, "2"]) -> Detections:
        """The best (region, class) pairs, decoded and thinned by NMS per class."""
        scores = jax.nn.softmax(outputs.logits)[:, 1:]
        return refined_detections(scores, outputs.deltas[:, 1:], detections, size, self.settings)


def refined_detections(
    scores: Float[Array, "s classes"],
    deltas: Float[Array, "s classes 4"],
    regions: Detections,
    size: Int[Array, "2"],
    settings: BoxSettings,
) -> Detections:
    """The best (region, class) pairs of an image, their boxes refined by `deltas`, thinned by NMS per class.

    `size` is the image's (height, width) without padding, in pixels, to which boxes are clipped.
    """
    classes = scores.shape[1]
    scores = jnp.where(regions.valid[:, None] & (scores > settings.score_threshold), scores, -jnp.inf)
    scores, top = jax.lax.top_k(scores.reshape(-1), min(settings.candidates, scores.size))
    row, label = top // classes, top % classes
    boxes = box_ops.decode(deltas[row, label], regions.boxes[row], weights=settings.weights)
    boxes = box_ops.clip(boxes, size)
    valid = jnp.isfinite(scores) & jnp.all(boxes[:, 2:] - boxes[:, :2] >= settings.min_size, axis=-1)
    return best_detections(boxes, scores, label, valid, iou_threshold=settings.nms_threshold, count=settings.detections)
