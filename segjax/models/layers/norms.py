"""Normalisation layers by name, so that a backbone takes its norm as an argument."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

NormName = Literal["frozen_batch", "batch", "group", "layer"]
NormFactory = Callable[..., nn.Module]

EPSILON = 1e-5
"""What torch's norms add to the variance unless told otherwise."""


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose statistics *and* affine parameters are constants, as detectors fine-tune it.

    All four vectors live in the collection "frozen", which no optimiser sees (Ren et al. 2016 keep the ImageNet
    statistics because a detector's batches are too small to estimate them).
    """

    epsilon: float = EPSILON
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*n h w c"], *, train: bool = False, valid: Bool[Array, "*n"] | None = None
    ) -> Float[Array, "*n h w c"]:
        """`train` and `valid` change nothing; they are there so that every norm is called alike."""
        shape = (x.shape[-1],)
        scale = self.variable("frozen", "scale", jnp.ones, shape, jnp.float32).value
        bias = self.variable("frozen", "bias", jnp.zeros, shape, jnp.float32).value
        mean = self.variable("frozen", "mean", jnp.zeros, shape, jnp.float32).value
        var = self.variable("frozen", "var", jnp.ones, shape, jnp.float32).value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        offset = bias - mean * factor
        return x * _as_channels(factor.astype(self.dtype), x) + _as_channels(offset.astype(self.dtype), x)


class BatchNorm(nn.Module):
    """Batch normalisation over the whole batch: over all devices when the batch is sharded over them.

    Moments are float32 whatever `dtype` is. `momentum` is the weight of the old average: 0.9 is torch's 0.1.
    Running variances use the biased estimate, as Flax does; torch stores the unbiased one.
    """

    momentum: float = 0.9
    epsilon: float = EPSILON
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*n h w c"], *, train: bool = False, valid: Bool[Array, "*n"] | None = None
    ) -> Float[Array, "*n h w c"]:
        """With `train` it normalises by the batch's own moments and updates the running ones.

        `valid` says which maps these moments are taken over, all of them by default; what is padding is normalised
        like the rest. Where nothing is valid the running moments serve, and stay as they are.
        """
        norm = _RunningMoments(self.momentum, self.epsilon, name="norm")
        return norm(x.astype(jnp.float32), train, valid).astype(self.dtype)


class _RunningMoments(nn.Module):
    """The variables of a `BatchNorm`, under the names that Flax's own has for them."""

    momentum: float
    epsilon: float

    @nn.compact
    def __call__(self, x: Array, train: bool, valid: Array | None) -> Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones_init(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        mean, var = running_mean.value, running_var.value
        if train:
            some = True if valid is None else jnp.any(valid)
            batch_mean, batch_var = _moments(x, valid)
            mean, var = jnp.where(some, batch_mean, mean), jnp.where(some, batch_var, var)
            if not self.is_initializing():
                kept = jnp.where(some, self.momentum, 1.0)
                running_mean.value = kept * running_mean.value + (1.0 - kept) * mean
                running_var.value = kept * running_var.value + (1.0 - kept) * var
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return (x - _as_channels(mean, x)) * _as_channels(factor, x) + _as_channels(bias, x)


def _moments(x: Array, valid: Array | None) -> tuple[Array, Array]:
    """Mean and biased variance of each channel, over what is valid; zero where nothing is.

    In two passes: the mean of squares less the square of the mean loses the variance of a channel far from zero.
    """
    axes = tuple(range(x.ndim - 1))
    if valid is None:
        return jnp.mean(x, axes), jnp.var(x, axes)
    counted = valid.reshape(*valid.shape, *[1] * (x.ndim - valid.ndim))
    pixels = x.size // (valid.size * x.shape[-1])
    count = jnp.maximum(jnp.sum(valid, dtype=jnp.float32), 1.0) * pixels
    mean = jnp.sum(x, axes, where=counted) / count
    return mean, jnp.sum(jnp.square(x - _as_channels(mean, x)), axes, where=counted) / count


def _as_channels(vector: Array, x: Array) -> Array:
    return vector.reshape(*[1] * (x.ndim - 1), -1)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018): 32 groups, or as many as divide the channels.

    Of 32 channels and fewer each is a group of its own, which is instance normalisation.
    """

    groups: int = 32
    epsilon: float = EPSILON
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*n h w c"], *, train: bool = False, valid: Bool[Array, "*n"] | None = None
    ) -> Float[Array, "*n h w c"]:
        """`train` and `valid` change nothing: the statistics are each map's own."""
        groups = min(self.groups, x.shape[-1])
        while x.shape[-1] % groups:
            groups -= 1
        norm = nn.GroupNorm(num_groups=groups, epsilon=self.epsilon, dtype=jnp.float32, name="norm")
        maps = x.astype(jnp.float32).reshape(-1, *x.shape[-3:])
        return norm(maps).reshape(x.shape).astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) of each position by itself, over its channels.

    What is elsewhere on the map changes nothing, so that a network of these sees the same in a window and in the image.
    """

    epsilon: float = EPSILON
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*n h w c"], *, train: bool = False, valid: Bool[Array, "*n"] | None = None
    ) -> Float[Array, "*n h w c"]:
        """`train` and `valid` change nothing: the statistics are each position's own."""
        norm = nn.LayerNorm(epsilon=self.epsilon, dtype=jnp.float32, name="norm")
        return norm(x.astype(jnp.float32)).astype(self.dtype)


_NORMS: dict[str, type[nn.Module]] = {
    "frozen_batch": FrozenBatchNorm,
    "batch": BatchNorm,
    "group": GroupNorm,
    "layer": LayerNorm,
}


def norm_layer(
    name: NormName, *, epsilon: float = EPSILON, momentum: float = 0.9, dtype: DTypeLike = jnp.float32
) -> NormFactory:
    """The norm called `name`, ready to be made with `norm(name=...)` and called with (x, *, train, valid).

    Args:
      name: of the kind of norm.
      epsilon: what is added to the variance.
      momentum: weight of the old average in running moments, which only "batch" has.
      dtype: of what it returns.

    Raises:
      ValueError: the name is not known.
    """
    if name not in _NORMS:
        raise ValueError(f"norm is {name!r}; choose one of {', '.join(map(repr, _NORMS))}.")
    options = {"momentum": momentum} if name == "batch" else {}
    return functools.partial(_NORMS[name], epsilon=epsilon, dtype=dtype, **options)
