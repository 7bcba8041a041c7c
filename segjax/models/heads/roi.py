"""The door for heads on regions of interest: what such a head is, and how regions reach it.

A head is a network and three pure functions: its targets, its losses, and how its outputs become part of `Detections`.
The box, mask and keypoint heads are made of nothing else, and a model takes any number of heads by name.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from segjax.models.layers.conv import Conv
from segjax.models.layers.norms import NormName, norm_layer
from segjax.ops.matching import IGNORE, NEGATIVE, match
from segjax.ops.roi import multilevel_roi_align, roi_pool
from segjax.ops.roi_pyramid import pyramid_pool
from segjax.ops.sampling import sample_balanced
from segjax.ops.warp import warp_regions
from segjax.types import Detections, Instances, Losses, Proposals


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """Which regions the heads are trained on; the defaults are torchvision's."""

    threshold: float = 0.5
    """Proposals with at least this IoU with an object are positive; of the others see `negatives`."""
    negatives: tuple[float, float] = (0.0, 0.5)
    """Proposals whose IoU lies from the first of these to below the second are negative; what is left is not used.
    Girshick 2015 takes (0.1, 0.5)."""
    samples: int = 512
    """Regions sampled per image."""
    positive_fraction: float = 0.25
    """Of `samples`, how many may be positive."""

    @property
    def positives(self) -> int:
        """The most positive regions of an image. They come first among the samples."""
        return int(self.samples * self.positive_fraction)


class PoolSettings(NamedTuple):
    """How the features of a region are pooled to a map of fixed size."""

    size: int = 7
    """Side of the pooled map."""
    sampling_ratio: int = 2
    """RoIAlign: samples per bin and axis."""
    canonical_size: float = 224.0
    """On a pyramid: side in pixels of the boxes pooled from the level of stride 16 (Lin et al. 2017, eq. 1)."""
    kind: Literal["align", "pool", "pyramid", "warp"] = "align"
    """RoIAlign, or what needs a single map: the quantised maxima of Fast R-CNN (pool), those over several grids of
    SPP-net (pyramid), or R-CNN's cut out of the image with some context (warp), whose map is of stride 1."""
    levels: tuple[int, ...] = (1, 2, 3, 6)
    """pyramid: bins along a side of each grid, in place of `size`; those of He et al. 2014, section 4.1."""
    context: int = 0
    """warp: how many of the `size` pixels on each side show what surrounds the region."""
    chunk: int = 0
    """Regions of each image that are pooled and run through the network at a time, which bounds the memory; in training
    their activations are computed anew for the gradient. 0 takes all at once. Batch norm takes its statistics over a
    chunk."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the pooled map: of a pyramid, a row of the bins of all levels."""
        return (1, sum(level**2 for level in self.levels)) if self.kind == "pyramid" else (self.size, self.size)


class RoIs(NamedTuple):
    """The regions that heads are trained on, and what each was matched to; the positive ones first, padding last."""

    boxes: Float[Array, "*b s 4"]
    target: Int[Array, "*b s"]
    """Index among the image's instances of the object a region belongs to; it means nothing where not positive."""
    positive: Bool[Array, "*b s"]
    """An object's region; never where it is padding."""
    valid: Bool[Array, "*b s"]


@runtime_checkable
class RoIHead(Protocol):
    """What a model needs of a head. A frozen dataclass with these members is one; nothing is to be inherited.

    Of each image s regions are sampled in training: `SamplingSettings.samples`, or of them the first `.positives` for a
    head of positives only. Pooled features are far from unit size before training, so a last layer should start small.

    `network` sees a whole batch. `targets` and `decode` are written for one image and vmapped by the model; `losses`
    takes the batch, since it is divided by counts over the whole of it. All are traced into one program: static shapes,
    no side effects.
    """

    network: nn.Module
    """(features [b, s, *pool.shape, c], *, valid [b, s], train) -> outputs, arrays that begin with [b, s]. Where
    `valid` is False there is no region."""
    pool: PoolSettings
    """How the features that `network` sees are pooled."""
    positives_only: bool
    """Train on the regions of objects alone: `rois` then has only the slots that these can have."""

    def targets(self, rois: RoIs, instances: Instances, size: Int[Array, "2"]) -> Any:
        """What the network should say of each region, [s, ...], from the objects of the image. No gradient flows.

        `size` is the image's (height, width) without padding, in pixels.
        """
        ...

    def losses(self, outputs: Any, targets: Any, rois: RoIs) -> Losses:
        """The loss terms of a batch; their names must be none of another head's."""
        ...

    def decode(self, outputs: Any, detections: Detections, size: Int[Array, "2"]) -> Detections:
        """The detections of one image with what this head knows of them.

        Heads are called in order. `detections` is what the one before left, and the regions that `outputs` is of; for
        the first head these are the proposals, all with label 0. `size` is the image's (height, width).
        """
        ...


def sample_rois(keys: Key[Array, "b"], proposals: Proposals, instances: Instances, settings: SamplingSettings) -> RoIs:
    """A fixed number of regions per image from its proposals and its ground truth, balanced between kinds.

    The ground-truth boxes join the proposals, so that there are positives from the first step on (torchvision and
    Detectron do the same).
    """
    low, high = settings.negatives

    def of_image(key, proposals, boxes, valid):
        regions = jnp.concatenate([proposals.boxes, boxes])
        present = jnp.concatenate([proposals.valid, valid])
        matches = match(regions, boxes, valid, positive_threshold=settings.threshold, negative_threshold=high)
        # Where there is no object at all, every proposal is a negative.
        usable = present & ((matches.status != NEGATIVE) | (matches.quality >= low) | ~jnp.any(valid))
        status = jnp.where(usable, matches.status, IGNORE)
        chosen = sample_balanced(key, status, count=settings.samples, positive_fraction=settings.positive_fraction)
        i = chosen.indices
        kept = jnp.where(chosen.valid[:, None], regions[i], 0.0)
        return RoIs(kept, matches.target[i], chosen.positive & chosen.valid, chosen.valid)

    sampled = jax.vmap(of_image)(keys, proposals, instances.boxes, instances.valid)
    return jax.lax.stop_gradient(sampled)


def pool_rois(
    features: Sequence[Float[Array, "b _ _ c"]],
    boxes: Float[Array, "b s 4"],
    valid: Bool[Array, "b s"],
    *,
    strides: Sequence[int],
    settings: PoolSettings,
    sizes: Int[Array, "b 2"] | None = None,
) -> Float[Array, "b s h2 w2 c"]:
    """The pooled features of every region, `settings.shape` of them; zero where not valid.

    Args:
      features: the maps that regions are pooled from, finest first; further ones are left aside.
      strides: pixels a cell, of each of them.
      sizes: (height, width) of each image without padding, in pixels, which is all of the map by default.
    """
    boxes = jnp.where(valid[..., None], boxes, 0.0)
    if settings.kind != "align":
        if len(strides) > 1:
            raise ValueError(f"pool.kind is {settings.kind!r}, which needs a single map, and there are {len(strides)}.")
        sizes = jnp.broadcast_to(jnp.array(features[0].shape[1:3]), (len(boxes), 2)) if sizes is None else sizes
        pooled = _of_single_map(features[0], boxes, sizes, strides[0], settings)
        return jnp.where(valid[..., None, None, None], pooled.reshape(*valid.shape, *settings.shape, -1), 0)
    pool = functools.partial(
        multilevel_roi_align,
        output_size=settings.size,
        strides=strides,
        sampling_ratio=settings.sampling_ratio,
        canonical_size=settings.canonical_size,
    )
    return jax.vmap(lambda maps, b, v: pool(maps, b, valid=v))(list(features[: len(strides)]), boxes, valid)


def _of_single_map(features: Array, boxes: Array, sizes: Array, stride: int, settings: PoolSettings) -> Array:
    """Regions pooled from the only map there is, in whatever form their kind of pooling gives."""
    if settings.kind == "warp":
        if stride != 1:
            raise ValueError(f"pool.kind is 'warp', which cuts out pixels, and the map has a stride of {stride}.")
        warp = functools.partial(warp_regions, output_size=settings.size, context=settings.context)
        return jax.vmap(warp)(features, boxes, sizes)
    if settings.kind == "pyramid":
        pool = functools.partial(pyramid_pool, levels=settings.levels, spatial_scale=1 / stride)
    else:
        pool = functools.partial(roi_pool, output_size=settings.size, spatial_scale=1 / stride)
    return jax.vmap(pool)(features, boxes)


def region_convolutions(
    features: Float[Array, "b s h w c"],
    channels: Sequence[int],
    *,
    norm: NormName | None = None,
    valid: Bool[Array, "b s"],
    train: bool,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b s h w c2"]:
    """3x3 convolutions over the maps of all regions, each rectified and named conv0, conv1, ... in the calling module.

    Args:
      channels: of each convolution; none leaves the features as they are.
      norm: between each convolution and its rectifier, named norm0, norm1, ...; its statistics, where it takes them
        over the batch, are of the valid regions alone.
    """
    x = features.reshape(-1, *features.shape[2:])
    for i, width in enumerate(channels):
        x = Conv(width, 3, bias=norm is None, dtype=dtype, name=f"conv{i}")(x)
        if norm is not None:
            x = norm_layer(norm, dtype=dtype)(name=f"norm{i}")(x, train=train, valid=valid.reshape(-1))
        x = nn.relu(x)
    return x.reshape(*features.shape[:2], *x.shape[1:])
