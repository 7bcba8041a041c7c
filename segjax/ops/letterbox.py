"""Resampling of images that lie at the top left of a larger canvas, each with a size of its own that is known only when
the program runs: to another size, and mirrored. What lies outside an image never gets into it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped


def resize(
    x: Float[Array, "b h w c"],
    sizes: Int[Array, "b 2"],
    new_sizes: Int[Array, "b 2"],
    *,
    canvas: tuple[int, int],
    first_row: int | Int[Array, ""] = 0,
) -> Float[Array, "b h2 w2 c"]:
    """Each image brought from its size to a new one bilinearly, with half-pixel centres and no antialiasing.

    Of one image alone this is `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`: output pixel i
    takes the place (i + 0.5) * before / after - 0.5, and places outside the image take its border.

    Args:
        x: Images at the top left of a canvas [h w].
        sizes: (height, width) of each image, in pixels; at least 1.
        new_sizes: (height, width) that each gets; at least 1.
        canvas: (height, width) of the output. Beyond the new size there is more of the border,
            which means nothing.
        first_row: Of the output, so that a large one can be made strip by strip.
    """
    rows = first_row + jnp.arange(canvas[0], dtype=jnp.int32)
    columns = jnp.arange(canvas[1], dtype=jnp.int32)

    def one(image: Array, size: Array, new: Array) -> Array:
        image = _mixed(image, rows, size[0], new[0], axis=0)
        return _mixed(image, columns, size[1], new[1], axis=1)

    return jax.vmap(one)(x, sizes, new_sizes)


def _mixed(image: Array, places: Array, before: Array, after: Array, *, axis: int) -> Array:
    """The two lines next to each place along an axis, mixed."""
    ratio = before.astype(jnp.float32) / after.astype(jnp.float32)
    last = before.astype(jnp.float32) - 1
    at = jnp.clip((places.astype(jnp.float32) + 0.5) * ratio - 0.5, 0, last)
    low = jnp.floor(at)
    share = jnp.expand_dims((at - low).astype(image.dtype), (1, 2) if axis == 0 else (0, 2))
    index = low.astype(jnp.int32)
    nearer = jnp.take(image, index, axis=axis)
    further = jnp.take(image, jnp.minimum(index + 1, before.astype(jnp.int32) - 1), axis=axis)
    return nearer * (1 - share) + further * share


def mirror(x: Shaped[Array, "b h w c"], sizes: Int[Array, "b 2"]) -> Shaped[Array, "b h w c"]:
    """Each image mirrored left to right within its own width; the canvas beside it stays as it is."""
    columns = jnp.arange(x.shape[2], dtype=sizes.dtype)[None]
    widths = sizes[:, 1:]
    index = jnp.where(columns < widths, widths - 1 - columns, columns)
    return jnp.take_along_axis(x, index[:, None, :, None], axis=2)
