"""Down- and upsampling of feature maps, with torch's geometry."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def upsample_nearest(x: Float[Array, "*b h w c"], size: tuple[int, int]) -> Float[Array, "*b h2 w2 c"]:
    """Nearest-neighbour resize to `size` = (height, width): output pixel i takes input pixel floor(i * in / out).

    This is `torch.nn.functional.interpolate(mode="nearest")`. Whole multiples are repeats, whose gradient is a sum
    over blocks and needs no scatter.
    """
    for axis, out in ((-3, size[0]), (-2, size[1])):
        n = x.shape[axis]
        if out % n == 0:
            x = jnp.repeat(x, out // n, axis=axis)
        else:
            x = jnp.take(x, jnp.arange(out) * n // out, axis=axis)
    return x
