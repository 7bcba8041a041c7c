"""From bytes to the numbers a network sees."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt8

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Channel statistics of ImageNet for RGB in 0..1, which torchvision's weights were trained with."""


def pixel_mask(sizes: Int[Array, "b 2"], height: int, width: int) -> Bool[Array, "b height width"]:
    """True where a pixel belongs to the image, False in the padding below and to the right of it."""
    rows = jnp.arange(height)[None, :, None] < sizes[:, 0, None, None]
    columns = jnp.arange(width)[None, None, :] < sizes[:, 1, None, None]
    return rows & columns


def normalize(
    images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"],
    sizes: Int[Array, "b 2"],
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b h w 3"]:
    """Images with zero mean and unit variance per channel, zero in the padding whatever the bytes there are.

    Bytes are divided by 255; floats are taken to be in 0..1 already.
    """
    x = images.astype(jnp.float32)
    if jnp.issubdtype(images.dtype, jnp.integer):
        x = x / 255.0
    x = (x - jnp.asarray(mean, jnp.float32)[None, None, None]) / jnp.asarray(std, jnp.float32)[None, None, None]
    return jnp.where(pixel_mask(sizes, *images.shape[1:3])[..., None], x, 0.0).astype(dtype)
