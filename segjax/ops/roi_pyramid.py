"""Spatial pyramid pooling of regions: maxima over grids of several fineness, side by side."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from segjax.ops.roi import roi_pool


def pyramid_pool(
    features: Float[Array, "h w c"],
    boxes: Float[Array, "n 4"],
    *,
    levels: Sequence[int],
    spatial_scale: int | float,
) -> Float[Array, "n bins c"]:
    """The largest feature in each bin of each level of each box (He et al. 2014, sections 2.2 and 4.1).

    A level of k cuts the box's window on the map into k x k bins, from the floor of where a bin begins to the ceiling
    of where it ends. The window is that of RoI pooling, which is a pyramid of one level (Girshick 2015, section 2.1):
    corners are rounded to cells and both belong to it, so that none is empty. (The paper's appendix takes the cells
    whose centres lie strictly inside the box, of which a small box has none.)

    Args:
        features: one feature map.
        boxes: `xyxy` in image pixels. They may leave the image; a bin outside the map is 0. They get no gradient.
        levels: bins along a side; the result has the first level's bins first, each level's row by row.
        spatial_scale: cells a pixel, 1 / stride.

    Raises:
        ValueError: there is no level, or one is below 1.
    """
    if not levels or min(levels) < 1:
        raise ValueError(f"levels must be one or more numbers of bins, each 1 or more, not {tuple(levels)}.")
    pooled = [roi_pool(features, boxes, output_size=level, spatial_scale=spatial_scale) for level in levels]
    return jnp.concatenate([level.reshape(boxes.shape[0], -1, features.shape[-1]) for level in pooled], axis=1)
