"""The box head of Fast R-CNN (Girshick 2015): a class and a refined box for every region of interest."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from segjax.losses import masked_sum, safe_divide, smooth_l1, softmax_cross_entropy
from segjax.models.heads.rpn import Proposals
from segjax.ops import boxes as box_ops
from segjax.ops.matching import IGNORE, match
from segjax.ops.nms import batched_nms, top_detections
from segjax.ops.sampling import Samples, sample_balanced
from segjax.types import Detections, Instances


@dataclasses.dataclass(frozen=True)
class BoxSettings:
    """The numbers of a box head; the defaults are torchvision's."""

    threshold: float = 0.5
    """Proposals with at least this IoU with an object are positive, the others negative."""
    samples: int = 512
    """Proposals sampled per image for the losses."""
    positive_fraction: float = 0.25
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


class RoISamples(NamedTuple):
    """The regions that RoI heads are trained on, and what each was matched to."""

    boxes: Float[Array, "*b s 4"]
    target: Int[Array, "*b s"]
    """Index of the matched object among the image's instances."""
    chosen: Samples
    """Which of them are positive, and which are padding."""


class BoxOutputs(NamedTuple):
    """What the head says of every region. Column 0 is the background; class id c is column c + 1."""

    logits: Float[Array, "*b s columns"]
    deltas: Float[Array, "*b s columns 4"]


class BoxHead(nn.Module):
    """Two hidden layers over the pooled features of a region, then class logits and per-class box deltas."""

    classes: int
    hidden: int = 1024
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b s h w c"]) -> BoxOutputs:
        """Logits and deltas, float32."""
        columns = self.classes + 1
        x = features.reshape(*features.shape[:2], -1)
        for name in ("fc6", "fc7"):
            x = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name=name)(x))
        logits = nn.Dense(columns, dtype=self.dtype, kernel_init=nn.initializers.normal(0.01), name="class")(x)
        deltas = nn.Dense(4 * columns, dtype=self.dtype, kernel_init=nn.initializers.normal(0.001), name="box")(x)
        deltas = deltas.reshape(*deltas.shape[:2], columns, 4)
        return BoxOutputs(logits.astype(jnp.float32), deltas.astype(jnp.float32))


def sample_rois(keys: Key[Array, "b"], proposals: Proposals, instances: Instances, settings: BoxSettings) -> RoISamples:
    """A fixed number of regions per image from its proposals and its ground truth, balanced between kinds.

    The ground-truth boxes join the proposals, so that there are positives from the first step on (torchvision and
    Detectron do the same).
    """

    def of_image(key, proposals, instances):
        boxes = jnp.concatenate([proposals.boxes, instances.boxes])
        valid = jnp.concatenate([proposals.valid, instances.valid])
        threshold = settings.threshold
        matches = match(
            boxes, instances.boxes, instances.valid, positive_threshold=threshold, negative_threshold=threshold
        )
        status = jnp.where(valid, matches.status, IGNORE)
        chosen = sample_balanced(key, status, count=settings.samples, positive_fraction=settings.positive_fraction)
        i = chosen.indices
        return RoISamples(jnp.where(chosen.valid[:, None], boxes[i], 0.0), matches.target[i], chosen)

    return jax.lax.stop_gradient(jax.vmap(of_image)(keys, proposals, instances))


def box_losses(
    outputs: BoxOutputs, rois: RoISamples, instances: Instances, settings: BoxSettings
) -> dict[str, Float[Array, ""]]:
    """Cross-entropy over all sampled regions and smooth L1 over the positive ones, of their own class's deltas.

    Both are divided by the number of regions sampled in the whole batch, as torchvision does.
    """

    def of_image(logits, deltas, rois, instances):
        positive, valid = rois.chosen.positive & rois.chosen.valid, rois.chosen.valid
        column = jnp.where(positive, instances.labels[rois.target] + 1, 0)
        targets = box_ops.encode(instances.boxes[rois.target], rois.boxes, weights=settings.weights)
        own = jnp.take_along_axis(deltas, column[:, None, None], axis=1)[:, 0]
        classes = masked_sum(softmax_cross_entropy(logits, column), valid)
        box = masked_sum(smooth_l1(own, targets, beta=1 / 9).sum(-1), positive)
        return classes, box, jnp.sum(valid, dtype=jnp.float32)

    classes, box, count = jax.tree.map(jnp.sum, jax.vmap(of_image)(*outputs, rois, instances))
    return {"class": safe_divide(classes, count), "box": safe_divide(box, count)}


def detect(outputs: BoxOutputs, proposals: Proposals, sizes: Int[Array, "b 2"], settings: BoxSettings) -> Detections:
    """Detections from the head's outputs: the best (proposal, class) pairs, decoded and thinned by NMS per class."""

    def of_image(logits, deltas, proposals, size):
        scores = jax.nn.softmax(logits)[:, 1:]
        classes = scores.shape[1]
        scores = jnp.where(proposals.valid[:, None] & (scores > settings.score_threshold), scores, -jnp.inf)
        scores, top = jax.lax.top_k(scores.reshape(-1), min(settings.candidates, scores.size))
        row, label = top // classes, top % classes
        boxes = box_ops.decode(deltas[row, label + 1], proposals.boxes[row], weights=settings.weights)
        boxes = box_ops.clip(boxes, size)
        valid = jnp.isfinite(scores) & jnp.all(boxes[:, 2:] - boxes[:, :2] >= settings.min_size, axis=-1)
        keep = batched_nms(
            boxes,
            scores,
            label,
            iou_threshold=settings.nms_threshold,
            valid=valid,
            max_output=settings.detections,
            sorted=True,
        )
        best, valid = top_detections(scores, keep, count=settings.detections)
        return Detections(
            boxes=jnp.where(valid[:, None], boxes[best], 0.0),
            scores=jnp.where(valid, scores[best], 0.0),
            labels=jnp.where(valid, label[best], 0).astype(jnp.int32),
            valid=valid,
        )

    return jax.vmap(of_image)(*outputs, proposals, sizes)
