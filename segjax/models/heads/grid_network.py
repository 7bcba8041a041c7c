"""The network of a grid detector: a tower for the class and a tower for the box at every position of every map."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv
from segjax.models.layers.norms import NormName, norm_layer
from segjax.models.layers.plain import classifier_init
from segjax.ops.boxes import MAX_LOG_SCALE

Distances = Literal["exp", "softplus", "distribution"]
"""How the last layer's numbers become distances in strides. exp: as in FCOS. softplus: nearly linear above 1.
distribution: the mean of a distribution over whole numbers (Li et al. 2020, "GFL", section 3.2)."""

START = 2.0
"""Distance in strides from a point to each side of its box before training: boxes of four strides, between the
smallest objects that a level is for and those of the next, so that the first overlaps tell the levels apart."""
PRIOR = 0.01
"""Probability of each class before training (Lin et al. 2017, "Focal loss", section 3.3)."""


class GridOutputs(NamedTuple):
    """What the network says at every point, all levels one after another; float32."""

    logits: Float[Array, "*b n classes"]
    distances: Float[Array, "*b n 4"]
    """To the left, upper, right and lower side, in strides, at least 0."""
    objectness: Float[Array, "*b n"] | None = None
    """Logit of there being any object, where the head has it."""
    bins: Float[Array, "*b n 4 bins"] | None = None
    """Logits of the distributions whose means are the distances."""

    @property
    def scores(self) -> Float[Array, "*b n classes"]:
        """Of each class, in [0, 1]: its probability, times the probability of an object where the head has it."""
        scores = jax.nn.sigmoid(self.logits)
        return scores if self.objectness is None else scores * jax.nn.sigmoid(self.objectness)[..., None]


class GridNetwork(nn.Module):
    """The decoupled head (Ge et al. 2021, "YOLOX", section 2.1; Feng et al. 2021 call it parallel).

    Two towers of 3x3 convolutions, one before the classes, one before the box and objectness, and 1x1 convolutions
    behind them. Levels share the convolutions or have their own; norms they never share, since the statistics of one
    level are not those of another (Lyu et al. 2022, "RTMDet", section 3.2).
    """

    classes: int
    depth: int = 2
    """Convolutions in each tower."""
    shared: bool = True
    """Whether all levels go through the same convolutions. Each then scales its distances by a number of its own, as
    in FCOS (Tian et al. 2019, section 3.2), unless they are distributions."""
    form: Distances = "exp"
    count: int = 17
    """distribution: the whole numbers are 0 to `count` - 1, in strides."""
    objectness: bool = False
    norm: NormName = "batch"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, maps: Sequence[Float[Array, "b _ _ c"]], *, train: bool = False) -> GridOutputs:
        """What the head says of the positions of all maps, row by row."""
        made: dict[str, Conv] = {}

        def conv(x: Array, name: str, level: int, features: int, kernel: int, **options) -> Array:
            name = name if self.shared else f"{name}_level{level}"
            if name not in made:
                made[name] = Conv(features, kernel, dtype=self.dtype, name=name, **options)
            return made[name](x)

        def tower(x: Array, name: str, level: int) -> Array:
            for i in range(self.depth):
                x = conv(x, f"{name}{i}", level, x.shape[-1], 3)
                x = nn.silu(norm_layer(self.norm, dtype=self.dtype)(name=f"{name}{i}_norm{level}")(x, train=train))
            return x

        def last(x: Array, name: str, level: int, features: int, bias: nn.initializers.Initializer) -> Array:
            # Classes from logits of unit size: from 0.01, as boxes have, 500 steps reached an AP of .250 and not .319.
            init = classifier_init if name == "class" else nn.initializers.normal(0.01)
            y = conv(x, name, level, features, 1, bias=True, kernel_init=init, bias_init=bias)
            return y.reshape(y.shape[0], -1, features).astype(jnp.float32)

        rare = nn.initializers.constant(math.log(PRIOR / (1.0 - PRIOR)))
        logits, sides, objectness = [], [], []
        for level, x in enumerate(maps):
            logits.append(last(tower(x, "class_tower", level), "class", level, self.classes, rare))
            x = tower(x, "box_tower", level)
            side = last(x, "box", level, 4 * self._numbers, self._start)
            if self.shared and self.form != "distribution":
                side = side * self.param(f"scale{level}", nn.initializers.ones_init(), (), jnp.float32)
            sides.append(side)
            if self.objectness:
                objectness.append(last(x, "objectness", level, 1, rare)[..., 0])
        distances, bins = self._distances(jnp.concatenate(sides, axis=1))
        found = jnp.concatenate(objectness, axis=1) if self.objectness else None
        return GridOutputs(jnp.concatenate(logits, axis=1), distances, found, bins)

    @property
    def _numbers(self) -> int:
        return self.count if self.form == "distribution" else 1

    def _start(self, key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        """Biases that make all distances about `START`."""
        if self.form == "exp":
            return jnp.full(shape, math.log(START), dtype)
        if self.form == "softplus":
            return jnp.full(shape, math.log(math.expm1(START)), dtype)
        # A geometric distribution of this mean, but for what is cut off behind its last number.
        return jnp.tile(jnp.arange(self.count, dtype=dtype) * -math.log(1.0 + 1.0 / START), 4)

    def _distances(self, x: Array) -> tuple[Array, Array | None]:
        if self.form == "exp":
            return jnp.exp(jnp.minimum(x, MAX_LOG_SCALE)), None
        if self.form == "softplus":
            return jax.nn.softplus(x), None
        if self.form != "distribution" or self.count < 2:
            raise ValueError(
                f"form is {self.form!r} and count {self.count}; choose exp, softplus, or distribution with a count of "
                "2 and more."
            )
        bins = x.reshape(*x.shape[:2], 4, self.count)
        numbers = jnp.arange(self.count, dtype=jnp.float32)
        return jnp.sum(jax.nn.softmax(bins) * numbers[None, None, None], axis=-1), bins
