"""What dense heads on a feature pyramid share: layers that all levels go through, and the candidates of each level."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from segjax.models.layers.conv import Conv
from segjax.models.layers.norms import norm_layer

TowerNorm = Literal["group"]
"""Of layers that several levels go through: statistics over a batch would be those of no level."""
Maps = Sequence[Float[Array, "b _ _ _"]]
Layer = Callable[[Float[Array, "b h w _"]], Float[Array, "b h w _"]]

_init = nn.initializers.normal(0.01)


def tower(name: str, channels: int, *, depth: int, norm: TowerNorm | None, bias: bool, dtype: DTypeLike) -> Layer:
    """3x3 convolutions one behind the other, each rectified, for maps of any level.

    To be called inside a compact module, whose parameters are then `{name}_conv0`, `{name}_norm0`, ...

    Args:
      name: of the tower.
      channels: of each convolution.
      depth: number of convolutions.
      norm: between each convolution and its rectifier.
      bias: of the convolutions.
      dtype: of the computation.
    """
    layers: list[Layer] = []
    for i in range(depth):
        layers.append(Conv(channels, 3, bias=bias, kernel_init=_init, dtype=dtype, name=f"{name}_conv{i}"))
        if norm is not None:
            layers.append(norm_layer(norm, dtype=dtype)(name=f"{name}_norm{i}"))
        layers.append(nn.relu)

    def apply(x: Array) -> Array:
        for layer in layers:
            x = layer(x)
        return x

    return apply


def last_layer(name: str, features: int, *, dtype: DTypeLike, probability: float = 0.5) -> Layer:
    """The 3x3 convolution behind a tower.

    With a `probability`, its sigmoid starts at that everywhere: rare objects are then no surprise, where a half would
    let the background's loss wash out all else (Lin et al. 2017, "Focal loss", section 3.3).
    """
    bias = nn.initializers.constant(-math.log((1 - probability) / probability))
    return Conv(features, 3, bias=True, kernel_init=_init, bias_init=bias, dtype=dtype, name=name)


def at_places(maps: Maps, values: int) -> Float[Array, "b n values"]:
    """Maps of all levels as one array in float32, `values` channels to a place: row by row, column by column."""
    return jnp.concatenate([x.reshape(x.shape[0], -1, values) for x in maps], axis=1).astype(jnp.float32)


def check_places(count: int, levels: Sequence[int]) -> None:
    """`ValueError` unless the network's outputs are of as many places as there are on the levels."""
    if sum(levels) != count:
        raise ValueError(
            f"the network speaks of {count} places and the settings make {sum(levels)}, {tuple(levels)} on the levels: "
            "it must have as many anchors at a position as they."
        )


class Candidates(NamedTuple):
    """(place, class) pairs, best first."""

    scores: Float[Array, "k"]
    """Minus infinity where a pair is not above the threshold."""
    places: Int[Array, "k"]
    labels: Int[Array, "k"]


def level_candidates(
    scores: Float[Array, "n classes"], levels: Sequence[int], *, threshold: float, count: int
) -> Candidates:
    """The best pairs of each level of an image, at most `count` from each.

    Args:
      scores: of every class at every place, above 0.
      levels: number of places of each level.
      threshold: pairs that are not above this are none.
      count: pairs a level.

    Raises:
      ValueError: the levels have not as many places as there are scores for.
    """
    check_places(scores.shape[0], levels)
    found, start = [], 0
    for size in levels:
        best = _best_pairs(scores[start : start + size], count)
        found.append(best._replace(places=best.places + start))
        start += size
    every = Candidates(*(jnp.concatenate(parts) for parts in zip(*found)))
    ranked, order = jax.lax.top_k(jnp.where(every.scores > threshold, every.scores, -jnp.inf), every.scores.shape[0])
    return Candidates(ranked, every.places[order], every.labels[order])


def _best_pairs(scores: Array, count: int) -> Candidates:
    # A pair among the best `count` is at a place whose best pair is among the best `count` of such. Choosing places
    # first ranks 90 times fewer numbers, of COCO's classes.
    _, place = jax.lax.top_k(scores.max(axis=1), min(count, scores.shape[0]))
    of_places = scores[place]
    best, pair = jax.lax.top_k(of_places.reshape(-1), min(count, of_places.size))
    classes = scores.shape[1]
    return Candidates(best, place[pair // classes], pair % classes)


def measured_strides(size: tuple[int, int], maps: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pixels between the positions of each map, (y, x), of images of this size.

    They are measured and not assumed, as in torchvision: halving odd sizes gives a few more pixels than a power of two.
    """
    return [(size[0] // height, size[1] // width) for height, width in maps]
