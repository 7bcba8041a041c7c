"""Boxes as the cells of a grid predict them: the codec of YOLO (Redmon et al. 2016, section 2), and its inverse.

An image is divided into `grid` x `grid` cells, which are numbered row by row. A box is (x, y, w, h): its centre
relative to its cell, 0 at the cell's left or upper border and 1 at the other, and its size relative to the image.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segjax.ops.boxes import area, cxcywh_to_xyxy, xyxy_to_cxcywh

Size = tuple[int, int] | Int[Array, "2"]
"""(height, width) in pixels."""


class CellTargets(NamedTuple):
    """The object that each of n cells is responsible for. Where there is none, the numbers are 0 and mean nothing."""

    present: Bool[Array, "*b n"]
    """Whether the cell has an object."""
    boxes: Float[Array, "*b n 4"]
    """(x, y, w, h) of the object."""
    labels: Int[Array, "*b n"]
    index: Int[Array, "*b n"]
    """The object's row among those given."""
    lost: Int[Array, "*b"]
    """Objects that no cell is responsible for, because a cell has one only."""


def cell_places(grid: int) -> Int[Array, "n 2"]:
    """(column, row) of each cell. ValueError unless there is one."""
    if grid < 1:
        raise ValueError(f"grid is {grid}; it must have at least one cell along each side.")
    row, column = jnp.indices((grid, grid), dtype=jnp.int32).reshape(2, -1)
    return jnp.stack([column, row], axis=-1)


def responsible_cells(boxes: Float[Array, "*b 4"], *, grid: int, size: Size) -> Int[Array, "*b"]:
    """The cell that the centre of each box falls into, `row * grid + column`; -1 where it is outside the image.

    A cell has its left and upper border; the last column and row have the image's right and lower edge too.

    Args:
        boxes: `xyxy` in pixels.
        grid: cells along each side.
        size: of the image.
    """
    height, width = _sides(size)
    cx, cy, _, _ = jnp.moveaxis(xyxy_to_cxcywh(boxes), -1, 0)

    def along(centre: Array, side: Array) -> Array:
        # Borders are compared and not divided by: on a border, rounding would decide which cell it is.
        borders = jnp.arange(1, grid, dtype=jnp.float32) * side
        at = (centre * grid)[..., None] >= borders.reshape(*[1] * centre.ndim, -1)
        return jnp.sum(at, axis=-1, dtype=jnp.int32)

    inside = (cx >= 0) & (cx <= width) & (cy >= 0) & (cy <= height)
    return jnp.where(inside, along(cy, height) * grid + along(cx, width), -1)


def encode_cells(
    boxes: Float[Array, "n 4"], labels: Int[Array, "n"], valid: Bool[Array, "n"], *, grid: int, size: Size
) -> CellTargets:
    """What each of the grid's cells should predict.

    Of several objects with their centre in one cell the one of largest area is kept, the first of equal ones; the
    others are counted in `lost`, as is an object whose centre is outside the image. The largest, so that the outcome
    does not depend on the order of the annotations, and because what is lost is then the least of the picture.
    (Darknet keeps a random one.)

    Args:
        boxes: `xyxy` in pixels.
        labels: class ids.
        valid: False for rows that are no object.
        grid: cells along each side.
        size: of the image that the grid is laid over.
    """
    # One row of padding, so that there is a largest among no objects too.
    boxes, labels, valid = jnp.pad(boxes, ((0, 1), (0, 0))), jnp.pad(labels, (0, 1)), jnp.pad(valid, (0, 1))
    cells = cell_places(grid)
    responsible = responsible_cells(boxes, grid=grid, size=size)
    candidate = (responsible[None, :] == jnp.arange(grid**2, dtype=jnp.int32)[:, None]) & valid[None, :]
    areas = jnp.where(candidate, area(boxes)[None, :], -jnp.inf)
    index = jnp.argmax(areas, axis=1).astype(jnp.int32)
    present = jnp.any(candidate, axis=1)
    lost = jnp.sum(valid, dtype=jnp.int32) - jnp.sum(present, dtype=jnp.int32)
    height, width = _sides(size)
    cx, cy, w, h = jnp.moveaxis(xyxy_to_cxcywh(boxes[index]), -1, 0)
    x = (cx * grid - cells[:, 0].astype(jnp.float32) * width) / width
    y = (cy * grid - cells[:, 1].astype(jnp.float32) * height) / height
    relative = jnp.stack([x, y, w / width, h / height], axis=-1)
    return CellTargets(
        present,
        jnp.where(present[:, None], relative, 0.0),
        jnp.where(present, labels[index], 0),
        jnp.where(present, index, 0),
        lost,
    )


def decode_cells(
    boxes: Float[Array, "*b 4"], cells: Int[Array, "*b 2"], *, grid: int, size: Size
) -> Float[Array, "*b 4"]:
    """`xyxy` in pixels of boxes that cells predict: the inverse of `encode_cells`.

    Args:
        boxes: (x, y, w, h). A centre may lie outside its cell; a negative size gives an inverted box.
        cells: (column, row) of the cell of each box.
        grid: cells along each side.
        size: of the image that the grid is laid over.
    """
    height, width = _sides(size)
    x, y, w, h = jnp.moveaxis(boxes.astype(jnp.float32), -1, 0)
    cx = (x + cells[..., 0].astype(jnp.float32)) * width / grid
    cy = (y + cells[..., 1].astype(jnp.float32)) * height / grid
    return cxcywh_to_xyxy(jnp.stack([cx, cy, w * width, h * height], axis=-1))


def _sides(size: Size) -> tuple[Array, Array]:
    height, width = (jnp.asarray(size[i], jnp.float32) for i in (0, 1))
    return height, width
