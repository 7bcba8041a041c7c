"""Masks on the host: the same pixels as drawing, resizing and packing the whole image would give."""

import numpy as np
import pytest

from segjax.data import masks
from segjax.data.segmentations import segmentation_to_mask
from segjax.data.source import DataError
from segjax.ops.masks import unpack


def polygon(rng, height, width):
    """A random polygon that may reach a little out of the image; half of them have corners at half pixels."""
    corners = int(rng.integers(3, 12))
    points = rng.uniform(-0.3, 1.3, 2) * (width, height) + rng.uniform(-0.4, 0.4, (corners, 2)) * (width, height)
    points = np.clip(points, -min(height, width), 2 * min(height, width))
    return (np.round(points * 2) / 2 if rng.random() < 0.5 else points).ravel().tolist()


def blobs(rng, count, height, width):
    """Random rectangles of noise, among them an empty mask and a full one."""
    drawn = np.zeros((count, height, width), np.uint8)
    for mask in drawn[2:]:
        (y1, y2), (x1, x2) = np.sort(rng.integers(0, height + 1, 2)), np.sort(rng.integers(0, width + 1, 2))
        mask[y1:y2, x1:x2] = rng.random((y2 - y1, x2 - x1)) < 0.7
    drawn[1] = 1
    return drawn


def test_drawing_in_a_window_changes_no_pixel(rng):
    shown = 0
    for _ in range(200):
        segmentation = [polygon(rng, 50, 70) for _ in range(rng.integers(1, 3))]
        expected = segmentation_to_mask(segmentation, 50, 70)
        np.testing.assert_array_equal(masks.draw_masks([segmentation], 50, 70)[0], expected)
        shown += expected.any()
    assert shown > 100


def test_each_form_of_segmentation_is_drawn_and_none_is_empty():
    square = np.zeros((20, 30), np.uint8)
    square[5:10, 4:20] = 1
    polygons = [[4, 5, 20, 5, 20, 10, 4, 10]]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], square.T.ravel(), [2]])))
    lengths = {"size": [20, 30], "counts": np.diff(np.concatenate([[0], edges])).tolist()}
    drawn = masks.draw_masks([polygons, None, lengths], 20, 30)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, [square, np.zeros_like(square), square])
    assert masks.draw_masks([], 20, 30).shape == (0, 20, 30)
    with pytest.raises(DataError, match="4 coordinates"):
        masks.draw_masks([[[1, 2, 3, 4]]], 20, 30)


@pytest.mark.parametrize("size", [(40, 60), (80, 120), (33, 91), (20, 30), (1, 1), (67, 50)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_resizing_takes_the_nearest_pixel(rng, size, mirrored):
    drawn = blobs(rng, 8, 40, 60)
    drawn = masks.flip_masks(drawn) if mirrored else drawn
    resized = masks.resize_masks(drawn, size)
    # torch takes the product of the position and the ratio in float32.
    ratio = np.float32(40) / np.float32(size[0]), np.float32(60) / np.float32(size[1])
    for y in range(size[0]):
        for x in range(size[1]):
            row, column = int(np.float32(y) * ratio[0]), int(np.float32(x) * ratio[1])
            np.testing.assert_array_equal(resized[:, y, x], drawn[:, min(row, 39), min(column, 59)])


def test_flipping_exchanges_left_and_right(rng):
    drawn = blobs(rng, 6, 20, 31)
    np.testing.assert_array_equal(masks.flip_masks(drawn), drawn[..., ::-1])
    np.testing.assert_array_equal(masks.flip_masks(masks.flip_masks(drawn)), drawn)


@pytest.mark.parametrize("width", [8, 31, 40])
@pytest.mark.parametrize("mirrored", [False, True])
def test_packing_and_unpacking_give_the_masks_back(rng, width, mirrored):
    drawn = blobs(rng, 9, 20, width)
    drawn = masks.flip_masks(drawn) if mirrored else drawn
    packed = np.zeros((12, 24, 6), np.uint8)
    masks.pack_into(packed, drawn)
    unpacked = unpack(packed, 48)
    np.testing.assert_array_equal(unpacked[:9, :20, :width], drawn)
    assert unpacked.sum() == drawn.sum()
    np.testing.assert_array_equal(packed[:9, :20, : -(-width // 8)], np.packbits(drawn, axis=-1))
