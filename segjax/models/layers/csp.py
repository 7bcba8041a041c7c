"""A cross-stage partial network (Wang et al. 2020, "CSPNet") as a backbone, and the layers it is made of."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv
from segjax.models.layers.norms import NormName, norm_layer


class ConvNormSiLU(nn.Module):
    """A convolution, a norm, and SiLU, x * sigmoid(x) (Elfwing et al. 2018)."""

    features: int
    kernel: int = 3
    stride: int = 1
    norm: NormName = "batch"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h2 w2 features"]:
        """The map; its sides are those of `x` over the stride, rounded up."""
        x = Conv(self.features, self.kernel, self.stride, dtype=self.dtype, name="conv")(x)
        return nn.silu(norm_layer(self.norm, dtype=self.dtype)(name="norm")(x, train=train))


class CSPStage(nn.Module):
    """Half of the channels go through residual blocks, the other half past them; then both are mixed.

    One 1x1 convolution makes both halves. It is the paper's partial dense block (section 3.1) with residual blocks in
    place of dense ones. A block is a 1x1 and a 3x3 convolution.
    """

    features: int
    blocks: int = 1
    residual: bool = True
    """Whether blocks are added to what they are given, or replace it."""
    norm: NormName = "batch"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w features"]:
        """The map, of the same size."""

        def conv(x: Array, features: int, kernel: int, name: str) -> Array:
            return ConvNormSiLU(features, kernel, norm=self.norm, dtype=self.dtype, name=name)(x, train=train)

        half = self.features // 2
        through, past = jnp.split(conv(x, 2 * half, 1, "split"), 2, axis=-1)
        for i in range(self.blocks):
            y = conv(conv(through, half, 1, f"block{i}_reduce"), half, 3, f"block{i}_conv")
            through = through + y if self.residual else y
        return conv(jnp.concatenate([through, past], axis=-1), self.features, 1, "mix")


class CSPNet(nn.Module):
    """Four stages, each a 3x3 convolution of stride 2 and a `CSPStage`, behind a stem of stride 2.

    The form of the networks that Bochkovskiy et al. 2020 (YOLOv4) and Ge et al. 2021 (YOLOX) detect with, at any size.
    Stage i has stride 2 ** (i + 1). `stages` picks what is returned, by number; stages beyond the last one asked for
    are not built.
    """

    channels: Sequence[int] = (32, 64, 128, 256, 512)
    """Of the stem and of each stage."""
    blocks: Sequence[int] = (1, 2, 2, 1)
    """Residual blocks in each stage."""
    stages: Sequence[int] = (2, 3, 4)
    norm: NormName = "batch"
    dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between neighbouring positions of each returned map."""
        return tuple(2 ** (i + 1) for i in sorted(self.stages))

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> list[Float[Array, "b _ _ _"]]:
        """Maps of a batch of normalised images, one for each of `stages`, finest first.

        Raises:
          ValueError: not four stages behind a stem, or a stage that there is none of.
        """
        self._check()
        options = {"norm": self.norm, "dtype": self.dtype}
        x = ConvNormSiLU(self.channels[0], 3, 2, **options, name="stem")(x, train=train)
        outputs = []
        for i in range(1, max(self.stages) + 1):
            features = self.channels[i]
            x = ConvNormSiLU(features, 3, 2, **options, name=f"down{i}")(x, train=train)
            x = CSPStage(features, self.blocks[i - 1], **options, name=f"stage{i}")(x, train=train)
            if i in self.stages:
                outputs.append(x)
        return outputs

    def _check(self) -> None:
        if len(self.channels) != 5 or len(self.blocks) != 4:
            raise ValueError(
                f"channels are {tuple(self.channels)} and blocks {tuple(self.blocks)}; give 5 and 4, for a stem and "
                "four stages."
            )
        if not self.stages or not set(self.stages) <= {1, 2, 3, 4}:
            raise ValueError(f"stages are {tuple(self.stages)}; choose some of 1, 2, 3, 4.")
