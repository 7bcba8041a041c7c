"""Feature pyramid network (Lin et al. 2017)."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv
from segjax.models.layers.norms import NormName, norm_layer
from segjax.ops.resample import nearest

# torchvision starts every FPN convolution with Kaiming-uniform(a=1), whose variance is 1 / fan_in.
_init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


Extra = Literal["subsampled", "convolved", "convolved_input", "none"]
"""Kinds of coarser levels, see `FPN.extra`."""


class FPN(nn.Module):
    """Maps of falling size -> as many maps of `channels` each, finest first, and coarser maps more.

    A 1x1 convolution per level, a top-down sum with nearest-neighbour upsampling, a 3x3 convolution per level
    (section 3). With a `norm`, each of these is followed by one in place of its bias; there is no activation.
    """

    channels: int = 256
    norm: NormName | None = None
    extra: Extra = "subsampled"
    """Coarser levels. subsampled: one, every second position of the last, as Faster R-CNN's RPN uses it (section 4.1).
    convolved: two, by 3x3 convolutions of stride 2 with a rectifier between, from the last of the pyramid's maps, as
    FCOS has them (Tian et al. 2019, section 3.2); convolved_input: from the last of the backbone's, as in RetinaNet's
    paper (Lin et al. 2017, "Focal loss", section 4). They have biases and no norms. none: no more levels."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: list[Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> list[Float[Array, "b _ _ channels"]]:
        """P2 to P6 from C2 to C5, for the usual four levels. Neighbouring levels may be of one size."""
        if self.extra not in get_args(Extra):
            raise ValueError(f"extra is {self.extra!r}; choose one of {', '.join(map(repr, get_args(Extra)))}.")

        def conv(x: Array, kernel: int, name: str) -> Array:
            bias = self.norm is None
            x = Conv(self.channels, kernel, bias=bias, kernel_init=_init, dtype=self.dtype, name=name)(x)
            if self.norm is None:
                return x
            return norm_layer(self.norm, dtype=self.dtype)(name=f"{name}_norm")(x, train=train)

        inner = [conv(x, 1, f"inner{i}") for i, x in enumerate(features)]
        for i in reversed(range(len(inner) - 1)):
            finer = inner[i]
            inner[i] = finer + nearest(inner[i + 1], size=(finer.shape[1], finer.shape[2]))
        outputs = [conv(x, 3, f"layer{i}") for i, x in enumerate(inner)]
        return [*outputs, *self._coarser(features[-1], outputs[-1])]

    def _coarser(self, last_input: Array, last: Array) -> list[Array]:
        """The levels after the last."""
        if self.extra == "none":
            return []
        if self.extra == "subsampled":
            return [last[:, ::2, ::2]]
        options = {"stride": 2, "bias": True, "kernel_init": _init, "dtype": self.dtype}
        source = last if self.extra == "convolved" else last_input
        first = Conv(self.channels, 3, name="extra0", **options)(source)
        return [first, Conv(self.channels, 3, name="extra1", **options)(nn.relu(first))]


class NoNeck(nn.Module):
    """Passes a backbone's maps on, for detectors on a single one."""

    def __call__(
        self, features: list[Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> list[Float[Array, "b _ _ _"]]:
        """`features` as they are."""
        return features
