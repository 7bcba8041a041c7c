"""MobileNetV3 (Howard et al. 2019) as a backbone, in torchvision's form."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv
from segjax.models.layers.norms import NormFactory, NormName, norm_layer


class BlockPlan(NamedTuple):
    """A row of the paper's tables 1 and 2."""

    kernel: int
    expanded: int
    """Channels between the two 1x1 convolutions."""
    out: int
    squeeze: bool
    """Whether the channels are weighed by what the whole map shows (squeeze and excite)."""
    hard_swish: bool
    """Hard swish or ReLU."""
    stride: int
    dilation: int = 1

    @property
    def step(self) -> int:
        """The stride that is taken: a dilation takes its place."""
        return 1 if self.dilation > 1 else self.stride


_ROWS: dict[str, tuple[tuple[int, int, int, bool, bool, int], ...]] = {
    "large": (
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    ),
    "small": (
        (3, 16, 16, True, False, 2),
        (3, 72, 24, False, False, 2),
        (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2),
        (5, 240, 40, True, True, 1),
        (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1),
        (5, 144, 48, True, True, 1),
        (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1),
        (5, 576, 96, True, True, 1),
    ),
}


def divisible(channels: int | float) -> int:
    """The multiple of eight next to `channels`, at least eight and at least nine tenths of it (MobileNetV2's rule)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def block_plans(
    size: Literal["large", "small"], *, width: float = 1.0, reduced_tail: bool = False, dilated: bool = False
) -> tuple[BlockPlan, ...]:
    """The blocks of a MobileNetV3 with these options (see `MobileNetV3`).

    Raises:
      ValueError: the size is not known.
    """
    if size not in _ROWS:
        raise ValueError(f"size is {size!r}; MobileNetV3 comes in sizes {', '.join(map(repr, _ROWS))}.")
    plans = []
    # The tail is the last three blocks, from 0 here; the first of them still expands all channels that come in.
    for place, row in enumerate(_ROWS[size], start=3 - len(_ROWS[size])):
        plan = BlockPlan(*row)
        expanded = plan.expanded // 2 if reduced_tail and place > 0 else plan.expanded
        out = plan.out // 2 if reduced_tail and place >= 0 else plan.out
        dilation = 2 if dilated and place >= 0 else 1
        plans.append(plan._replace(expanded=divisible(width * expanded), out=divisible(width * out), dilation=dilation))
    return tuple(plans)


def _conv_norm(
    x: Array, channels: int, kernel: int, norm: NormFactory, *, name: str, train: bool, **options: int
) -> Array:
    """A convolution in the dtype of `x` and the norm after it."""
    x = Conv(channels, kernel, dtype=x.dtype, name=name, **options)(x)
    return norm(name=f"{name}_norm")(x, train=train)


class InvertedResidual(nn.Module):
    """A block: 1x1 expansion where channels grow, depthwise convolution, squeeze and excite, linear 1x1 projection."""

    plan: BlockPlan
    norm: NormFactory
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], *, train: bool = False
    ) -> tuple[Float[Array, "b h2 w2 c2"], Float[Array, "b h w expanded"]]:
        """What the block gives, and what it expands its input to."""
        plan = self.plan
        activation = nn.hard_swish if plan.hard_swish else nn.relu
        x = x.astype(self.dtype)
        wide = x
        if plan.expanded != x.shape[-1]:
            wide = activation(_conv_norm(x, plan.expanded, 1, self.norm, name="expand", train=train))
        y = _conv_norm(
            wide,
            plan.expanded,
            plan.kernel,
            self.norm,
            name="depthwise",
            train=train,
            stride=plan.step,
            dilation=plan.dilation,
            groups=plan.expanded,
        )
        y = activation(y)
        if plan.squeeze:
            y = y * self._weigh(y)
        y = _conv_norm(y, plan.out, 1, self.norm, name="project", train=train)
        # By the stride of the plan: where a dilation replaces it, there is no shortcut either.
        return (x + y if plan.stride == 1 and x.shape == y.shape else y), wide

    def _weigh(self, y: Array) -> Array:
        """A weight in 0..1 for each channel (section 5.3), from its mean over the whole map, padding included."""
        mean = jnp.mean(y.astype(jnp.float32), axis=(1, 2), keepdims=True)
        narrow = divisible(self.plan.expanded // 4)
        squeezed = nn.relu(Conv(narrow, 1, bias=True, dtype=self.dtype, name="squeeze")(mean))
        return nn.hard_sigmoid(Conv(y.shape[-1], 1, bias=True, dtype=self.dtype, name="excite")(squeezed))


class MobileNetV3(nn.Module):
    """MobileNetV3 as a backbone: the outputs of some of its stages, finest first.

    Stage 0 is the stem, stages 1 to 4 are the blocks that take a stride, and stage 5 is the last 1x1 convolution, as
    torchvision counts them; the blocks between them belong to none. Strides are 2, 4, 8, 16, 32, 32. The default is
    what torchvision's detectors build their pyramid on. Stages beyond the last one asked for are not built.

    The defaults of `epsilon` and `momentum` are those of torchvision's classifiers; its detectors have 1e-5.
    """

    size: Literal["large", "small"] = "large"
    norm: NormName = "frozen_batch"
    width: float = 1.0
    """Factor of all numbers of channels, which are rounded to multiples of eight."""
    reduced_tail: bool = False
    """Half the channels in the last three blocks and after them."""
    dilated: bool = False
    """The last stride becomes a dilation: stages 4 and 5 at stride 16, for segmentation."""
    stages: Sequence[int] = (4, 5)
    expanded: Sequence[int] = ()
    """Of `stages`, those whose map is taken inside the block, after its expansion and before its stride (SSDLite)."""
    epsilon: float = 1e-3
    momentum: float = 0.99
    dtype: DTypeLike = jnp.float32

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between neighbouring positions of each returned map."""
        of_stage = (2, 4, 8, 16, 16 if self.dilated else 32)
        return tuple(of_stage[min(i, 4) - (i in self.expanded)] for i in sorted(self.stages))

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> list[Float[Array, "b _ _ _"]]:
        """Maps of a batch of normalised images, one for each of `stages`."""
        plans = block_plans(self.size, width=self.width, reduced_tail=self.reduced_tail, dilated=self.dilated)
        self._check_stages(plans)
        norm = norm_layer(self.norm, epsilon=self.epsilon, momentum=self.momentum, dtype=self.dtype)
        stem = divisible(16 * self.width)
        x = _conv_norm(x.astype(self.dtype), stem, 3, norm, name="stem", train=train, stride=2)
        maps, last = [nn.hard_swish(x)], max(self.stages)
        x = maps[0]
        for i, plan in enumerate(plans):
            if last < 5 and len(maps) > last:
                break
            x, wide = InvertedResidual(plan, norm, self.dtype, name=f"block{i}")(x, train=train)
            if plan.stride > 1:
                maps.append(wide if len(maps) in self.expanded else x)
        if last == 5:
            x = _conv_norm(x, 6 * x.shape[-1], 1, norm, name="last", train=train)
            maps.append(nn.hard_swish(x))
        return [maps[i] for i in sorted(self.stages)]

    def _check_stages(self, plans: Sequence[BlockPlan]) -> None:
        if not self.stages or not set(self.stages) <= set(range(6)):
            raise ValueError(f"stages is {tuple(self.stages)}; MobileNetV3 has the stages 0 to 5.")
        # The first block of the small network has a stride and no expansion.
        first = 2 if plans[0].stride > 1 else 1
        if not set(self.expanded) <= set(self.stages) & set(range(first, 5)):
            raise ValueError(
                f"expanded is {tuple(self.expanded)}; take some of `stages`, of which {first} to 4 have an expansion."
            )
