"""Anchors and points laid over the cells of feature maps, in torchvision's geometry and order.

They depend on shapes only. They are computed from indices inside the program, because the 200 000 anchors of a pyramid
written out as a constant would make every program that holds them megabytes larger.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def cell_anchors(*, sizes: Sequence[int | float], ratios: Sequence[int | float]) -> Float[Array, "a 4"]:
    """The anchors of one cell, `xyxy` around (0, 0), corners rounded to whole pixels (torchvision's `AnchorGenerator`).

    Args:
        sizes: side in pixels of the square of the same area.
        ratios: height / width.

    Returns:
        len(ratios) * len(sizes) anchors, all sizes of the first ratio first.

    Raises:
        ValueError: no sizes, no ratios, or one that is not positive.
    """
    for name, values in (("sizes", sizes), ("ratios", ratios)):
        if not len(values) or min(values) <= 0:
            raise ValueError(f"{name} must be one or more positive numbers, got {name}={tuple(values)}.")
    # float32 throughout, because torchvision's rounding of .5 corners follows float32 products.
    height_factors = np.sqrt(np.asarray(ratios, np.float32))
    sides = np.asarray(sizes, np.float32)
    widths = ((1 / height_factors)[:, None] * sides[None, :]).ravel()
    heights = (height_factors[:, None] * sides[None, :]).ravel()
    return jnp.asarray(np.round(np.stack([-widths, -heights, widths, heights], axis=1) / 2))


def _check_grid(shape: tuple[int, int], stride: tuple[int, int] | int) -> tuple[int, int]:
    """The stride as (y, x)."""
    strides = (stride, stride) if isinstance(stride, int) else tuple(stride)
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be (height, width) of a feature map, both positive, got shape={shape}.")
    if len(strides) != 2 or min(strides) <= 0:
        raise ValueError(f"stride must be positive, one number or (y, x), got stride={stride}.")
    return strides


def grid_points(shape: tuple[int, int], *, stride: tuple[int, int] | int) -> Float[Array, "hw 2"]:
    """The centres (x, y) of the cells of a feature map in pixels of the image, row by row.

    Args:
        shape: (height, width) of the feature map.
        stride: pixels from cell to cell, one number or (y, x).
    """
    step_y, step_x = _check_grid(shape, stride)
    rows, columns = jnp.indices(shape, dtype=jnp.float32)
    return jnp.stack([(columns.ravel() + 0.5) * step_x, (rows.ravel() + 0.5) * step_y], axis=-1)


def grid_anchors(
    shape: tuple[int, int],
    *,
    stride: tuple[int, int] | int,
    sizes: Sequence[int | float],
    ratios: Sequence[int | float],
) -> Float[Array, "hwa 4"]:
    """The anchors of a feature map, `xyxy` in pixels of the image; not cut to the image.

    Cell (row, column) has its anchors around (column * stride, row * stride), the cell's top left corner, as in
    torchvision.

    Args:
        shape: (height, width) of the feature map.
        stride: pixels from cell to cell, one number or (y, x).
        sizes, ratios: as in `cell_anchors`.

    Returns:
        height * width * a anchors: row by row, then column by column, then in the order of `cell_anchors`.
    """
    step_y, step_x = _check_grid(shape, stride)
    cell = cell_anchors(sizes=sizes, ratios=ratios)
    rows, columns = jnp.indices(shape, dtype=jnp.float32)
    corners = jnp.stack([columns * step_x, rows * step_y, columns * step_x, rows * step_y], axis=-1)
    return (corners.reshape(-1, 1, 4) + cell[None]).reshape(-1, 4)


def pyramid_anchors(
    shapes: Sequence[tuple[int, int]],
    *,
    strides: Sequence[tuple[int, int] | int],
    sizes: Sequence[Sequence[int | float]],
    ratios: Sequence[int | float],
) -> list[Float[Array, "_ 4"]]:
    """The anchors of each level of a feature pyramid, as `grid_anchors` gives them.

    Args:
        shapes: (height, width) of each level's feature map.
        strides: stride of each level.
        sizes: the sizes of each level, e.g. ((32,), (64,), (128,)).
        ratios: height / width, the same on all levels.

    Raises:
        ValueError: the three do not have one entry a level.
    """
    if not len(shapes) == len(strides) == len(sizes):
        raise ValueError(
            f"shapes, strides and sizes need one entry a level, got {len(shapes)}, {len(strides)} and {len(sizes)}."
        )
    return [
        grid_anchors(shape, stride=stride, sizes=level, ratios=ratios)
        for shape, stride, level in zip(shapes, strides, sizes, strict=True)
    ]
