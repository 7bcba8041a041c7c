"""The convolutions of a classifier of windows: over all windows of a pyramid at once, or over some of them alone."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from segjax.models.layers.norms import NormName, norm_layer
from segjax.models.layers.valid import Spacing, ValidConv, maximum
from segjax.ops.windows import WindowLayout, cut_windows, window_pyramid


class WindowLayer(NamedTuple):
    """A convolution without padding, a rectifier and a maximum over `pool` x `pool` positions, 1 for none."""

    channels: int
    kernel: int
    stride: int = 1
    pool: int = 1


def window_side(layers: Sequence[WindowLayer], cells: int) -> int:
    """Side in pixels of the windows of which these layers leave `cells` x `cells` positions.

    Raises:
      ValueError: no layer; or `cells`, a kernel, a stride or a pool below 1.
    """
    if not layers or min(cells, *(min(layer) for layer in layers)) < 1:
        raise ValueError(
            f"layers is {tuple(layers)} and cells {cells}; give one layer or more, all numbers at least 1."
        )
    side = cells
    for layer in reversed(layers):
        side = (side * layer.pool - 1) * layer.stride + layer.kernel
    return side


def spacing_behind(layers: Sequence[WindowLayer], stride: int) -> Spacing:
    """Where the positions behind these layers stand, of windows that are `stride` pixels apart."""
    spacing = Spacing(stride)
    for layer in layers:
        spacing = spacing.by(layer.stride)[1].by(layer.pool)[1]
    return spacing


class WindowFeatures(nn.Module):
    """Convolutions, the same on every level: what the layers of a classifier that see pixels leave of windows.

    Norms have to be of each position by itself ("layer"), or by running moments: a mean over the map would make what
    is said of a window depend on what is beside it.
    """

    layers: Sequence[WindowLayer]
    layout: WindowLayout
    norm: NormName | None = None
    """Behind each convolution, in place of its bias."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w 3"], *, windows: Int[Array, "b s"] | None = None, train: bool = False
    ) -> list[Float[Array, "_ _ _ c"]]:
        """A map of each level; or of those windows of each image that are asked for, one map, [b * s, cells, cells, c].

        `windows` are indices in `segjax.ops.windows.window_boxes`.
        """
        convolutions = [
            ValidConv(layer.channels, layer.kernel, self.norm is None, dtype=self.dtype, name=f"conv{i}")
            for i, layer in enumerate(self.layers, start=1)
        ]
        norms = [
            norm_layer(self.norm, dtype=self.dtype)(name=f"norm{i}") if self.norm else None
            for i in range(1, len(self.layers) + 1)
        ]

        def features(x: Array, spacing: Spacing) -> Array:
            for layer, convolution, norm in zip(self.layers, convolutions, norms):
                stride, behind = spacing.by(layer.stride)
                x = convolution(x, dilation=spacing.dilation, stride=stride)
                x = nn.relu(x if norm is None else norm(x, train=train))
                stride, spacing = behind.by(layer.pool)
                x = maximum(x, layer.pool, dilation=behind.dilation, stride=stride)
            return x

        if windows is None:
            levels = window_pyramid(images, self.layout)
            return [features(level, Spacing(self.layout.stride)) for level in levels]
        x = jax.vmap(lambda image, own: cut_windows(image, own, self.layout))(images, windows)
        alone = Spacing(math.prod(layer.stride * layer.pool for layer in self.layers))
        return [features(x.reshape(-1, *x.shape[2:]), alone)]
