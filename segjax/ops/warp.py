"""Regions cut out of an image with some context and warped to one size: what R-CNN's network looks at."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def warp_regions(
    image: Float[Array, "h w c"],
    boxes: Float[Array, "n 4"],
    size: Int[Array, "2"],
    *,
    output_size: int,
    context: int | float = 0,
) -> Float[Array, "n output_size output_size c"]:
    """Each box of an image, whatever its aspect ratio, brought to the same square (Girshick et al. 2014, appendix A).

    The box fills the middle of the square and `context` of its pixels on each side show what surrounds the box. What
    lies outside the image is 0, the mean pixel of a normalised image. Bilinear, with half-pixel centres and without
    antialiasing; a place less than half a pixel from the image's border takes the border's value.

    Args:
        image: normalised, at the top left of a canvas [h w].
        boxes: `xyxy` in pixels. They may leave the image and get no gradient; one without area shows a single line or
            point.
        size: (height, width) of the image on the canvas, in pixels; at least 1.
        output_size: side of the square.
        context: pixels of the square, on each side.

    Raises:
        ValueError: the context leaves no room for the box.
    """
    if not 0 <= 2 * context < output_size:
        raise ValueError(f"context is {context}; two of them must leave room for the box in {output_size} pixels.")
    boxes = jax.lax.stop_gradient(boxes.astype(jnp.float32))
    row = _places(boxes[:, 1], boxes[:, 3], size[0], output_size, context)
    column = _places(boxes[:, 0], boxes[:, 2], size[1], output_size, context)
    pixels, total = image.reshape(-1, image.shape[-1]), 0.0
    for y, weight_y in row:
        for x, weight_x in column:
            index = y[:, :, None] * image.shape[1] + x[:, None, :]
            weight = (weight_y[:, :, None] * weight_x[:, None, :])[..., None]
            total = total + pixels.at[index].get(mode="promise_in_bounds").astype(jnp.float32) * weight
    return total.astype(image.dtype)


Taps = tuple[Int[Array, "n o"], Float[Array, "n o"]]


def _places(start: Array, end: Array, extent: Array, count: int, context: int | float) -> tuple[Taps, Taps]:
    """The two pixels that each place along an axis is mixed of, and their weights: 0 outside the image."""
    step = ((end - start) / (count - 2 * context))[:, None]
    at = start[:, None] + (jnp.arange(count, dtype=jnp.float32)[None] + 0.5 - context) * step
    length = extent.astype(jnp.float32)
    inside = (at >= 0) & (at <= length)
    centre = jnp.clip(at - 0.5, 0, length - 1)
    low = jnp.floor(centre)
    upper = centre - low
    after = jnp.minimum(low + 1, length - 1)
    weights = (jnp.where(inside, weight, 0.0) for weight in (1 - upper, upper))
    return tuple((place.astype(jnp.int32), weight) for place, weight in zip((low, after), weights))
