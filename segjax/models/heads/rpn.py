"""Region proposal network (Ren et al. 2016): the head, its losses, and proposals from its outputs."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from segjax.losses import masked_sum, safe_divide, sigmoid_cross_entropy, smooth_l1
from segjax.models.layers.conv import Conv
from segjax.ops import boxes as box_ops
from segjax.ops.matching import match
from segjax.ops.nms import batched_nms, top_detections
from segjax.ops.sampling import sample_balanced
from segjax.types import Instances, Proposals


@dataclasses.dataclass(frozen=True)
class RPNSettings:
    """The numbers of a region proposal network; the defaults are torchvision's for an FPN backbone.

    Counts that differ between training and prediction are pairs (training, prediction).
    """

    anchor_sizes: tuple[tuple[float, ...], ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    """Square roots of the anchors' areas in pixels, one tuple per pyramid level, finest first."""
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height / width of the anchors."""
    positive_threshold: float = 0.7
    negative_threshold: float = 0.3
    samples: int = 256
    """Anchors sampled per image for the losses."""
    positive_fraction: float = 0.5
    candidates: tuple[int, int] = (2000, 1000)
    """Best anchors kept per level before NMS."""
    proposals: tuple[int, int] = (2000, 1000)
    """Proposals per image after NMS."""
    nms_threshold: float = 0.7
    min_size: float = 1e-3
    """Proposals with a smaller side, in pixels, are dropped."""
    score_threshold: float = 0.0
    """Proposals with a lower objectness, in 0..1, are dropped."""

    @property
    def per_position(self) -> int:
        """Anchors at each position of a map. `ValueError` unless they are as many on every map."""
        counts = {len(sizes) * len(self.ratios) for sizes in self.anchor_sizes}
        if len(counts) != 1:
            raise ValueError(f"rpn.anchor_sizes is {self.anchor_sizes}; give each map as many: one network sees all.")
        return counts.pop()


class RPNOutputs(NamedTuple):
    """What the head says of every anchor, one array per level, anchors in the order of `anchors.grid_anchors`."""

    logits: list[Float[Array, "*b _"]]
    deltas: list[Float[Array, "*b _ 4"]]


class RPNHead(nn.Module):
    """A 3x3 convolution shared by all levels, then objectness and box deltas of every anchor."""

    anchors: int
    """Anchors per position."""
    depth: int = 1
    """Number of 3x3 convolutions."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: list[Float[Array, "b _ _ c"]], *, train: bool = False) -> RPNOutputs:
        """Logits and deltas per level, float32."""
        init = nn.initializers.normal(0.01)
        names = ["conv"] if self.depth == 1 else [f"conv{i}" for i in range(self.depth)]
        channels = features[0].shape[-1]
        shared = [Conv(channels, 3, bias=True, kernel_init=init, dtype=self.dtype, name=name) for name in names]
        objectness = Conv(self.anchors, 1, bias=True, kernel_init=init, dtype=self.dtype, name="objectness")
        box = Conv(4 * self.anchors, 1, bias=True, kernel_init=init, dtype=self.dtype, name="box")
        logits, deltas = [], []
        for x in features:
            for conv in shared:
                x = nn.relu(conv(x))
            logits.append(objectness(x).reshape(x.shape[0], -1).astype(jnp.float32))
            deltas.append(box(x).reshape(x.shape[0], -1, 4).astype(jnp.float32))
        return RPNOutputs(logits, deltas)


def rpn_losses(
    keys: Key[Array, "b"],
    outputs: RPNOutputs,
    anchors: list[Float[Array, "_ 4"]],
    instances: Instances,
    settings: RPNSettings,
) -> dict[str, Float[Array, ""]]:
    """Binary cross-entropy over sampled anchors and smooth L1 over the positive ones (section 3.1.2).

    Both are divided by the number of anchors sampled in the whole batch, as torchvision does.
    """
    all_anchors = jnp.concatenate(anchors)
    logits = jnp.concatenate(outputs.logits, axis=-1)
    deltas = jnp.concatenate(outputs.deltas, axis=-2)

    def of_image(key, logits, deltas, instances):
        matches = match(
            all_anchors,
            instances.boxes,
            instances.valid,
            positive_threshold=settings.positive_threshold,
            negative_threshold=settings.negative_threshold,
            allow_low_quality=True,
        )
        chosen = sample_balanced(
            key, matches.status, count=settings.samples, positive_fraction=settings.positive_fraction
        )
        i = chosen.indices
        targets = box_ops.encode(instances.boxes[matches.target[i]], all_anchors[i])
        objectness = masked_sum(sigmoid_cross_entropy(logits[i], chosen.positive), chosen.valid)
        box = masked_sum(smooth_l1(deltas[i], targets, beta=1 / 9).sum(-1), chosen.positive & chosen.valid)
        return objectness, box, jnp.sum(chosen.valid, dtype=jnp.float32)

    objectness, box, count = jax.tree.map(jnp.sum, jax.vmap(of_image)(keys, logits, deltas, instances))
    return {"rpn_objectness": safe_divide(objectness, count), "rpn_box": safe_divide(box, count)}


def propose(
    outputs: RPNOutputs,
    anchors: list[Float[Array, "_ 4"]],
    sizes: Int[Array, "b 2"],
    settings: RPNSettings,
    *,
    train: bool,
) -> Proposals:
    """The best boxes of every image: the best anchors of each level, decoded, clipped, thinned by NMS, then ranked.

    Per image and level, then over levels (section 3.3, with the levels of Lin et al. 2017 apart). No gradient flows
    through proposals.
    """
    candidates, count = (pair[0 if train else 1] for pair in (settings.candidates, settings.proposals))

    def best_of_level(logits, deltas, anchors, size):
        logits, top = jax.lax.top_k(logits, min(candidates, logits.shape[0]))
        return logits, box_ops.clip(box_ops.decode(deltas[top], anchors[top]), size)

    def of_image(logits, deltas, size):
        levels = [best_of_level(*level, size) for level in zip(logits, deltas, anchors)]
        scores, boxes = (jnp.concatenate(parts) for parts in zip(*levels))
        level = np.repeat(np.arange(len(levels), dtype=np.int32), [len(scores) for scores, _ in levels])
        usable = jnp.all(boxes[:, 2:] - boxes[:, :2] >= settings.min_size, axis=-1)
        usable &= jax.nn.sigmoid(scores) >= settings.score_threshold
        threshold = settings.nms_threshold
        keep = batched_nms(boxes, scores, jnp.asarray(level), iou_threshold=threshold, valid=usable, max_output=count)
        best, valid = top_detections(scores, keep, count=min(count, scores.shape[0]))
        kept = jnp.where(valid[:, None], boxes[best], 0.0)
        return Proposals(kept, jnp.where(valid, jax.nn.sigmoid(scores[best]), 0.0), valid)

    return jax.vmap(of_image)(*jax.lax.stop_gradient((outputs.logits, outputs.deltas)), sizes)
