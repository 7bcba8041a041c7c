"""Feature pyramid network (Lin et al. 2017)."""

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


class FPN(nn.Module):
    """Maps of falling size -> as many maps of `channels` each, finest first, and one coarser map more.

    A 1x1 convolution per level, a top-down sum with nearest-neighbour upsampling, a 3x3 convolution per level
    (section 3). The extra level subsamples the coarsest by two, as Faster R-CNN's RPN uses it (section 4.1). With a
    `norm`, each convolution is followed by one in place of its bias; there is no activation.
    """

    channels: int = 256
    norm: NormName | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: list[Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> list[Float[Array, "b _ _ channels"]]:
        """P2 to P6 from C2 to C5, for the usual four levels. Neighbouring levels may be of one size."""

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
        return [*outputs, outputs[-1][:, ::2, ::2]]


class NoNeck(nn.Module):
    """Passes a backbone's maps on, for detectors on a single one."""

    def __call__(
        self, features: list[Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> list[Float[Array, "b _ _ _"]]:
        """`features` as they are."""
        return features
