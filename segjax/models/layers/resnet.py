"""Residual networks (He et al. 2016) in torchvision's form: the stride sits in the 3x3 convolution."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv, max_pool
from segjax.models.layers.norms import NormFactory, NormName, norm_layer

BLOCKS: dict[int, tuple[bool, tuple[int, int, int, int]]] = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}
"""Depth -> (bottleneck blocks, blocks in each of the four stages): table 1 of the paper."""


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or with `bottleneck` 1x1, 3x3, 1x1 with four times the channels."""

    width: int
    stride: int
    bottleneck: bool
    norm: NormFactory
    dtype: DTypeLike
    dilation: int = 1
    """Of the convolution that takes the stride."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h2 w2 c2"]:
        """The sum of the input (projected where its shape changes) and the block's convolutions, rectified."""
        out = self.width * (4 if self.bottleneck else 1)
        # (kernel, channels, stride, dilation) of each convolution.
        plan = [(3, self.width, self.stride, self.dilation), (3, self.width, 1, 1)]
        if self.bottleneck:
            plan = [(1, self.width, 1, 1), (3, self.width, self.stride, self.dilation), (1, out, 1, 1)]
        y = x
        for i, (kernel, channels, stride, dilation) in enumerate(plan, start=1):
            y = Conv(channels, kernel, stride, dilation, dtype=self.dtype, name=f"conv{i}")(y)
            y = self.norm(name=f"norm{i}")(y, train=train)
            y = nn.relu(y) if i < len(plan) else y
        if x.shape[-1] != out or self.stride != 1:
            x = Conv(out, 1, self.stride, dtype=self.dtype, name="project")(x)
            x = self.norm(name="project_norm")(x, train=train)
        return nn.relu(x + y)


class Stage(nn.Module):
    """A run of residual blocks at one resolution; the first takes the stride.

    Made by `resnet_stage`, one is a backbone's or, on the features of regions, a head's (res5 in the C4 form).
    """

    blocks: int
    width: int
    stride: int
    bottleneck: bool
    norm: NormFactory
    dtype: DTypeLike
    dilations: tuple[int, int] = (1, 1)
    """Of the first block and of the others."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h2 w2 c2"]:
        """Applies the blocks in turn."""
        for i in range(self.blocks):
            stride, dilation = (self.stride, self.dilations[0]) if i == 0 else (1, self.dilations[1])
            block = Block(self.width, stride, self.bottleneck, self.norm, self.dtype, dilation, name=f"block{i}")
            x = block(x, train=train)
        return x


def resnet_stage(
    depth: int,
    number: int,
    *,
    norm: NormName = "frozen_batch",
    width: int = 64,
    dilate_last: int = 0,
    dtype: DTypeLike = jnp.float32,
    name: str | None = None,
) -> Stage:
    """Stage `number`, 1 to 4, of the ResNet with these options (see `ResNet`), from the map of the stage before it.

    Raises:
      ValueError: the depth is none of `BLOCKS`.
    """
    _check_depth(depth)
    bottleneck, blocks = BLOCKS[depth]
    # Strides of two that were replaced up to the stage before, and up to this one.
    before, now = (2 ** max(i - (4 - dilate_last), 0) for i in (number - 1, number))
    stride = 1 if number == 1 or now > before else 2
    return Stage(
        blocks[number - 1],
        width * 2 ** (number - 1),
        stride,
        bottleneck,
        norm_layer(norm, dtype=dtype),
        dtype,
        (before, now),
        name=name,
    )


def _check_depth(depth: int) -> None:
    if depth not in BLOCKS:
        raise ValueError(f"depth is {depth}; ResNet comes in depths {', '.join(map(str, BLOCKS))}.")


class ResNet(nn.Module):
    """ResNet-18 to 152 as a backbone: the outputs of its stages, finest first.

    `width` is the number of channels of the stem, 64 in the paper; halve it for a smaller network of the same
    shape. `stages` picks what is returned, by number: stage i has stride 2 ** (i + 1), so (1, 2, 3, 4) are C2 to
    C5 of the FPN paper. Stages beyond the last one asked for are not built.

    The last `dilate_last` of the four stages keep the resolution of the one before: their stride becomes a dilation
    of their 3x3 convolutions from the second block on, as in torchvision. True is one: C5 at stride 16. Two give the
    stride 8 of torchvision's segmentation models.
    """

    depth: int = 50
    norm: NormName = "frozen_batch"
    width: int = 64
    stages: Sequence[int] = (1, 2, 3, 4)
    dilate_last: int = 0
    dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between neighbouring positions of each returned map."""
        return tuple(2 ** (min(i, 4 - self.dilate_last) + 1) for i in sorted(self.stages))

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> list[Float[Array, "b _ _ _"]]:
        """Maps of a batch of normalised images, one for each of `stages`."""
        _check_depth(self.depth)
        if self.dilate_last not in (0, 1, 2, 3):
            raise ValueError(f"dilate_last is {self.dilate_last}; of the four stages, up to three can be dilated.")
        options = {"norm": self.norm, "width": self.width, "dilate_last": self.dilate_last, "dtype": self.dtype}
        x = Conv(self.width, 7, 2, dtype=self.dtype, name="stem")(x)
        x = nn.relu(norm_layer(self.norm, dtype=self.dtype)(name="stem_norm")(x, train=train))
        x = max_pool(x, window=3, stride=2, padding=1)
        outputs = []
        for i in range(1, max(self.stages) + 1):
            x = resnet_stage(self.depth, i, **options, name=f"layer{i}")(x, train=train)
            if i in self.stages:
                outputs.append(x)
        return outputs
