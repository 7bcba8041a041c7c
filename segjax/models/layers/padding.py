"""Images of any size in networks that halve them several times: padded at first, cropped at last."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from segjax.ops import resample


class Padded(NamedTuple):
    """Features of images that were padded, and what it takes to undo that."""

    maps: Any
    padded: tuple[int, int]
    """(height, width) of the images that the maps are of, in pixels."""
    size: tuple[int, int]
    """(height, width) of the images before they were padded."""


def pad_to_multiple(x: Float[Array, "b h w c"], multiple: int) -> Float[Array, "b h2 w2 c"]:
    """`x` with zeros below and to the right, up to the next sides that are multiples of `multiple`."""
    bottom, right = (-side % multiple for side in x.shape[1:3])
    return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0))) if bottom or right else x


def crop_to_image(logits: Float[Array, "b h w c"], features: Padded) -> Float[Array, "b h2 w2 c"]:
    """Logits on the padded images, at any resolution, at the size of the images alone.

    Where nothing was padded they keep their resolution. Else they are brought to the padded images' size bilinearly, as
    a `segmenter` does with all logits, and cut.
    """
    if features.padded == features.size:
        return logits
    if logits.shape[1:3] != features.padded:
        logits = resample.bilinear(logits, size=features.padded)
    height, width = features.size
    return logits[:, :height, :width]
