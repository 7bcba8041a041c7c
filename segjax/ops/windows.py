"""Windows of one size that slide over an image at several scales and aspect ratios: where they lie, what they see.

Level by level the image is resized, its two axes by factors of their own, so that a square window covers rectangles of
another size and shape in the image itself (Sermanet et al. 2014, section 3.3, for scales).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from segjax.ops import resample


class WindowLayout(NamedTuple):
    """Which windows an image has."""

    levels: tuple[tuple[float, float], ...]
    """(scale, aspect) of each: windows cover `side` / scale pixels of the image, by the square root of their area, and
    are `aspect` times as wide as high."""
    side: int
    """Of the windows, in pixels of the levels."""
    stride: int
    """Pixels of the levels from window to window."""
    margin: int = 0
    """Zeros around each level, in its pixels, so that windows may reach over the border of the image."""


class LevelGrid(NamedTuple):
    """A level of one image."""

    height: int
    width: int
    """Of the resized image in pixels, the margin not counted."""
    rows: int
    columns: int
    """Of windows."""

    @property
    def windows(self) -> int:
        """How many."""
        return self.rows * self.columns


def level_grids(layout: WindowLayout, size: tuple[int, int]) -> list[LevelGrid]:
    """The levels of an image of `size`, (height, width) in pixels: as many windows as cover it, at least one.

    Raises:
      ValueError: no level, a scale or an aspect that is not positive, a side or stride below 1, a negative margin; or
        an image without pixels.
    """
    if not layout.levels or min(min(level) for level in layout.levels) <= 0:
        raise ValueError(f"levels is {layout.levels}; give one or more pairs (scale, aspect), all above 0.")
    if min(layout.side, layout.stride) < 1 or layout.margin < 0:
        raise ValueError(
            f"windows have side {layout.side}, stride {layout.stride} and margin {layout.margin}; side and stride must "
            "be at least 1, the margin at least 0."
        )
    if min(size) < 1:
        raise ValueError(f"an image of {size[0]} x {size[1]} pixels has no windows.")

    def along(pixels: int, factor: float) -> tuple[int, int]:
        resized = max(1, round(pixels * factor))
        over = resized + 2 * layout.margin - layout.side
        return resized, max(0, -(-over // layout.stride)) + 1

    grids = []
    for scale, aspect in layout.levels:
        height, rows = along(size[0], scale * math.sqrt(aspect))
        width, columns = along(size[1], scale / math.sqrt(aspect))
        grids.append(LevelGrid(height, width, rows, columns))
    return grids


def count_windows(size: tuple[int, int], layout: WindowLayout) -> tuple[int, ...]:
    """How many windows an image of `size`, (height, width) in pixels, has at each level.

    Raises:
      ValueError: as `level_grids`.
    """
    return tuple(grid.windows for grid in level_grids(layout, size))


def window_boxes(size: tuple[int, int], layout: WindowLayout) -> Float[Array, "n 4"]:
    """What each window covers of an image of `size`: `xyxy` in its pixels, which may lie beyond its borders.

    Level by level, row by row, column by column.
    """
    boxes = []
    for grid in level_grids(layout, size):
        row, column = jnp.indices((grid.rows, grid.columns), dtype=jnp.float32).reshape(2, -1)
        y, x = row * layout.stride - layout.margin, column * layout.stride - layout.margin
        high, wide = size[0] / grid.height, size[1] / grid.width
        boxes.append(jnp.stack([x * wide, y * high, (x + layout.side) * wide, (y + layout.side) * high], axis=-1))
    return jnp.concatenate(boxes)


def window_pyramid(images: Float[Array, "b h w c"], layout: WindowLayout) -> list[Float[Array, "b _ _ c"]]:
    """The levels of a batch, resized bilinearly, with the margin and zeros behind it up to the last window's end."""
    levels = []
    for grid in level_grids(layout, images.shape[1:3]):
        level = resample.bilinear(images, size=(grid.height, grid.width))
        sides = [
            (layout.margin, (count - 1) * layout.stride + layout.side - layout.margin - pixels, 0)
            for count, pixels in ((grid.rows, grid.height), (grid.columns, grid.width))
        ]
        levels.append(jax.lax.pad(level, jnp.zeros((), level.dtype), ((0, 0, 0), *sides, (0, 0, 0))))
    return levels


def cut_windows(
    image: Float[Array, "h w c"], indices: Int[Array, "s"], layout: WindowLayout
) -> Float[Array, "s side side c"]:
    """The pixels of some windows, by their indices in `window_boxes`: the same as those cut out of `window_pyramid`.

    Each is resized by itself, so that a few windows cost nothing of the others.
    """
    grids = level_grids(layout, image.shape[:2])
    first = np.cumsum([0, *(grid.windows for grid in grids)])
    level = jnp.searchsorted(jnp.asarray(first[1:], jnp.int32), indices, side="right").astype(jnp.int32)
    place = indices - jnp.asarray(first, jnp.int32)[level]
    columns = jnp.asarray([grid.columns for grid in grids], jnp.int32)[level]
    vertical, horizontal = (
        _Taps.of(image.shape[axis], [(grid[axis], grid[2 + axis]) for grid in grids], layout) for axis in (0, 1)
    )

    def cut(level: Array, row: Array, column: Array) -> Array:
        x = vertical.apply(image, level, row, layout, axis=0)
        return horizontal.apply(x, level, column, layout, axis=1)

    return jax.vmap(cut)(level, place // columns, place % columns)


class _Taps(NamedTuple):
    """The two pixels of the image that each pixel of each level lies between along one axis, and their weights."""

    start: np.ndarray
    """Of each level in the arrays below, which begin with the margin."""
    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray
    """[n, 2], zero in the margin."""

    @classmethod
    def of(cls, before: int, levels: list[tuple[int, int]], layout: WindowLayout) -> "_Taps":
        """From (pixels, windows) of each level. Weights are computed as in `resample.bilinear`."""
        parts, start = [], [0]
        for after, windows in levels:
            at = np.arange((windows - 1) * layout.stride + layout.side) - layout.margin
            place = np.clip((at + 0.5) * (before / after) - 0.5, 0, before - 1)
            low = np.floor(place)
            weight = np.stack([1 - place + low, place - low], axis=1) * ((at >= 0) & (at < after))[:, None]
            parts.append((low, np.minimum(low + 1, before - 1), weight))
            start.append(start[-1] + len(at))
        low, high, weight = (np.concatenate(column) for column in zip(*parts))
        return cls(
            np.asarray(start[:-1], np.int32), low.astype(np.int32), high.astype(np.int32), weight.astype(np.float32)
        )

    def apply(self, x: Array, level: Array, window: Array, layout: WindowLayout, *, axis: int) -> Array:
        """`x`, of which `axis` is resized to the pixels of a window."""
        at = jnp.asarray(self.start)[level] + window * layout.stride + jnp.arange(layout.side, dtype=jnp.int32)
        shape = [1] * x.ndim
        shape[axis] = -1
        taps = zip((self.low, self.high), self.weight.T)
        return sum(
            jnp.take(x, jnp.asarray(index)[at], axis=axis, mode="clip")
            * jnp.asarray(weight)[at].reshape(shape).astype(x.dtype)
            for index, weight in taps
        )


def encode_edges(boxes: Float[Array, "*b n 4"], windows: Float[Array, "*b n 4"]) -> Float[Array, "*b n 4"]:
    """How far the edges of each box lie from those of its window, in units of the window's sides."""
    return (boxes - windows) / _sides(windows)


def decode_edges(offsets: Float[Array, "*b n 4"], windows: Float[Array, "*b n 4"]) -> Float[Array, "*b n 4"]:
    """The boxes whose edges lie so far from those of their windows: the inverse of `encode_edges`.

    Offsets are cut at 1, so that an edge moves by the window's own side at most. A box turned inside out is made one
    without area: its edges both move to their middle.
    """
    x1, y1, x2, y2 = jnp.moveaxis(windows + jnp.clip(offsets, -1.0, 1.0) * _sides(windows), -1, 0)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    corners = (jnp.minimum(x1, x), jnp.minimum(y1, y), jnp.maximum(x2, x), jnp.maximum(y2, y))
    return jnp.stack(corners, axis=-1)


def _sides(windows: Array) -> Array:
    sides = windows[..., 2:] - windows[..., :2]
    return jnp.concatenate([sides, sides], axis=-1)
