"""A backbone that is none, for heads that look at pixels."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


class Pixels(nn.Module):
    """Gives the normalised image as its only map, of stride 1."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between neighbouring positions."""
        return (1,)

    def __call__(self, x: Float[Array, "b h w 3"], *, train: bool = False) -> list[Float[Array, "b h w 3"]]:
        """The image."""
        del train
        return [x.astype(jnp.float32)]
