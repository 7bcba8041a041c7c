"""Normalisation layers by name, so that a backbone takes its norm as an argument."""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

NormName = Literal["frozen_batch", "batch", "group"]
NormFactory = Callable[..., nn.Module]


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose statistics *and* affine parameters are constants, as detectors fine-tune it.

    All four vectors live in the collection "frozen", which no optimiser sees (Ren et al. 2016 keep the ImageNet
    statistics because a detector's batches are too small to estimate them).
    """

    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """`train` changes nothing; it is there so that every norm is called alike."""
        shape = (x.shape[-1],)
        scale = self.variable("frozen", "scale", jnp.ones, shape, jnp.float32).value
        bias = self.variable("frozen", "bias", jnp.zeros, shape, jnp.float32).value
        mean = self.variable("frozen", "mean", jnp.zeros, shape, jnp.float32).value
        var = self.variable("frozen", "var", jnp.ones, shape, jnp.float32).value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        offset = bias - mean * factor
        return x * factor.astype(self.dtype)[None, None, None] + offset.astype(self.dtype)[None, None, None]


class BatchNorm(nn.Module):
    """Batch normalisation over the whole batch: over all devices when the batch is sharded over them.

    Moments are float32 whatever `dtype` is. `momentum` is the weight of the old average: 0.9 is torch's 0.1.
    Running variances use the biased estimate, as Flax does; torch stores the unbiased one.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """With `train` it normalises by the batch's own moments and updates the running ones."""
        return nn.BatchNorm(
            use_running_average=not train, momentum=self.momentum, epsilon=self.epsilon, dtype=jnp.float32, name="norm"
        )(x.astype(jnp.float32)).astype(self.dtype)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018): 32 groups, or as many as divide the channels."""

    groups: int = 32
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
        """`train` changes nothing: the statistics are each image's own."""
        groups = min(self.groups, x.shape[-1])
        while x.shape[-1] % groups:
            groups -= 1
        norm = nn.GroupNorm(num_groups=groups, epsilon=self.epsilon, dtype=jnp.float32, name="norm")
        return norm(x.astype(jnp.float32)).astype(self.dtype)


_NORMS: dict[str, type[nn.Module]] = {"frozen_batch": FrozenBatchNorm, "batch": BatchNorm, "group": GroupNorm}


def norm_layer(name: NormName, *, dtype: DTypeLike = jnp.float32) -> NormFactory:
    """The norm called `name`, ready to be made with `norm(name=...)`. `ValueError` for an unknown name."""
    if name not in _NORMS:
        raise ValueError(f"norm is {name!r}; choose one of {', '.join(map(repr, _NORMS))}.")
    return functools.partial(_NORMS[name], dtype=dtype)
