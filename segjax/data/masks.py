"""The masks of one image's objects on the host: drawn, resized, mirrored and packed, each within its own window.

Masks are UInt8 [n h w] of 0 and 1. Most objects are small beside their image, so every function here touches no more
than the rectangle that holds an object's pixels; the rest stays memory that comes zeroed and is never written, which
the system does not even provide.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from segjax.data.segmentations import drawn, segmentation_fault
from segjax.data.source import DataError

Masks = UInt8[np.ndarray, "n _ _"]


def draw_masks(segmentations: Sequence[Any], height: int, width: int) -> UInt8[np.ndarray, "n h w"]:
    """The masks that COCO segmentations describe, as pycocotools draws them; None gives an empty one.

    Args:
        segmentations: one of COCO's three forms each, or None.
        height, width: of the image, in pixels.

    Raises:
        DataError: a segmentation is malformed or of another size.
    """
    masks = np.zeros((len(segmentations), height, width), np.uint8)
    for mask, segmentation in zip(masks, segmentations):
        if segmentation is None:
            continue
        if fault := segmentation_fault(segmentation, height, width):
            raise DataError(f"A segmentation cannot be drawn: {fault}.")
        if isinstance(segmentation, list):
            _draw_polygons(segmentation, mask)
        else:
            mask[:] = drawn(segmentation, height, width)
    return masks


def _draw_polygons(polygons: list, mask: np.ndarray) -> None:
    """Draws polygons in the window that holds them, which is moved by whole pixels and so changes none of theirs."""
    points = [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in polygons]
    corners = np.concatenate(points)
    limit = np.array(mask.shape[::-1])
    low = np.clip(np.floor(corners.min(axis=0)).astype(int) - 1, 0, limit)
    high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 2, low, limit)
    if (high > low).all():
        (x1, y1), (x2, y2) = low.tolist(), high.tolist()
        moved = [(polygon - low).ravel().tolist() for polygon in points]
        mask[y1:y2, x1:x2] = drawn(moved, y2 - y1, x2 - x1)


def resize_masks(masks: Masks, size: tuple[int, int]) -> UInt8[np.ndarray, "n h2 w2"]:
    """Masks resized to `size`, (height, width), by nearest neighbour: out[i] = in[floor(i * (in size / out size))].

    The product is taken in float32, as torch.nn.functional.interpolate(mode="nearest") takes it, with which
    torchvision's detectors resize their masks.
    """
    rows, columns = (_nearest(n, out) for n, out in zip(masks.shape[1:], size))
    resized = np.zeros((len(masks), *size), np.uint8)
    for mask, out in zip(masks, resized):
        x, y, width, height = _window(mask)
        top, bottom = np.searchsorted(rows, (y, y + height)).tolist()
        left, right = np.searchsorted(columns, (x, x + width)).tolist()
        window = mask[y : y + height].take(columns[left:right], axis=1)
        out[top:bottom, left:right] = window.take(rows[top:bottom] - y, axis=0)
    return resized


def _nearest(size: int, out: int) -> np.ndarray:
    """For each of `out` positions the one of `size` that it is taken from, in order."""
    scaled = np.arange(out, dtype=np.float32) * (np.float32(size) / np.float32(out))
    return np.minimum(scaled.astype(np.int64), size - 1)


def flip_masks(masks: UInt8[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "n h w"]:
    """A view of the masks with left and right exchanged; no pixel is moved until they are resized or packed."""
    return masks[:, :, ::-1]


def _window(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(x, y, width, height) of the smallest window that holds a mask's pixels, all zero where there are none."""
    if mask.strides[1] > 0:
        return cv2.boundingRect(mask)
    x, y, width, height = cv2.boundingRect(mask[:, ::-1])  # OpenCV would copy a mirrored view
    return mask.shape[1] - x - width, y, width, height


def pack_into(packed: UInt8[np.ndarray, "capacity h2 bytes"], masks: Masks) -> None:
    """Writes masks to the first rows and the top left of `packed`, which is zero, as `packbits(axis=-1)` packs."""
    for mask, out in zip(masks, packed):
        x, y, width, height = _window(mask)
        first = x // 8 * 8
        # Of a mirrored view packbits itself would be ten times slower.
        window = np.packbits(np.ascontiguousarray(mask[y : y + height, first : x + width]), axis=-1)
        out[y : y + height, first // 8 : first // 8 + window.shape[1]] = window


def move_masks(masks: Masks, size: tuple[int, int], *, top: int, left: int) -> UInt8[np.ndarray, "n h2 w2"]:
    """Masks of an image that lies on a canvas of `size`, (height, width), with its corner at (top, left)."""
    moved = np.zeros((len(masks), *size), np.uint8)
    for mask, out in zip(masks, moved):
        x, y, width, height = _window(mask)
        out[top + y : top + y + height, left + x : left + x + width] = mask[y : y + height, x : x + width]
    return moved


def join_masks(groups: Sequence[UInt8[np.ndarray, "_ h w"]]) -> UInt8[np.ndarray, "total h w"]:
    """The masks of several groups over one canvas, one group after the other."""
    joined = np.zeros((sum(map(len, groups)), *groups[0].shape[1:]), np.uint8)
    for mask, out in zip((mask for group in groups for mask in group), joined):
        x, y, width, height = _window(mask)
        out[y : y + height, x : x + width] = mask[y : y + height, x : x + width]
    return joined


def cover_masks(
    masks: Masks, cover: UInt8[np.ndarray, "_ _"]
) -> tuple[UInt8[np.ndarray, "n h w"], Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """The masks without the pixels where `cover`, of the same size, is not zero.

    Returns:
        The masks left, as a copy, and the number of pixels of each before and after.
    """
    left, before, after = np.zeros(masks.shape, np.uint8), *np.zeros((2, len(masks)), np.int64)
    for i, mask in enumerate(masks):
        x, y, width, height = _window(mask)
        window = np.s_[y : y + height, x : x + width]
        left[i][window] = mask[window] * (cover[window] == 0)
        before[i], after[i] = mask[window].sum(), left[i][window].sum()
    return left, before, after


def mask_boxes(masks: Masks) -> Float[np.ndarray, "n 4"]:
    """The smallest box around each mask, `xyxy` in pixels; all zero around an empty one."""
    windows = np.array([_window(mask) for mask in masks], np.float32).reshape(-1, 4)
    windows[:, 2:] += windows[:, :2]
    return windows
