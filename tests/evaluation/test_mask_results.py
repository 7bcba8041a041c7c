"""Masks on the image against SciPy's interpolation, and run lengths against pycocotools'."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy.ndimage import map_coordinates

from segjax.data.segmentations import segmentation_to_mask
from segjax.evaluation.mask_results import encode_masks, encode_window

HEIGHT, WIDTH = 90, 110


def pasted(mask: np.ndarray, box) -> np.ndarray:
    """Probabilities over the image: the mask in a frame of zeros, sampled at the centre of every pixel it covers."""
    parts = len(mask)
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    grow = (parts + 2) / parts / 2
    left, right = (int((x1 + x2) / 2 + sign * (x2 - x1) * grow) for sign in (-1, 1))
    top, bottom = (int((y1 + y2) / 2 + sign * (y2 - y1) * grow) for sign in (-1, 1))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rows = (y - top + 0.5) * (parts + 2) / (bottom - top + 1) - 0.5
    columns = (x - left + 0.5) * (parts + 2) / (right - left + 1) - 0.5
    values = map_coordinates(np.pad(mask, 1).astype(np.float64), [rows, columns], order=1, mode="nearest")
    return np.where((y >= top) & (y <= bottom) & (x >= left) & (x <= right), values, 0)


@pytest.mark.parametrize(
    "box",
    [
        (10.3, 20.7, 60.2, 80.9),
        (-15.5, -13.2, 40, 30),
        (70, 50, 130, 120),
        (0, 0, WIDTH, HEIGHT),
        (7, 7, 16, 16),
        (50.2, 30.1, 50.6, 31),
        (-300, -200, 500, 400),
    ],
)
@pytest.mark.parametrize("parts", [7, 28])
def test_masks_lie_where_their_boxes_are(box, parts, rng):
    mask = np.kron(rng.random((parts // 7 + 1,) * 2), np.ones((7, 7)))[:parts, :parts].astype(np.float32)
    (runs,) = encode_masks(mask[None], np.asarray([box], np.float32), height=HEIGHT, width=WIDTH)
    expected = pasted(mask, box)
    clear = np.abs(expected - 0.5) > 1e-4
    found = segmentation_to_mask(runs, HEIGHT, WIDTH)
    np.testing.assert_array_equal(found[clear], expected[clear] > 0.5)
    assert clear.mean() > 0.95


@pytest.mark.parametrize("box", [(200, 200, 240, 240), (-90, 10, -40, 60), (10, 95, 60, 140)])
def test_a_box_outside_the_image_has_an_empty_mask(box):
    (runs,) = encode_masks(np.ones((1, 28, 28), np.float32), np.asarray([box], np.float32), height=HEIGHT, width=WIDTH)
    assert runs["size"] == [HEIGHT, WIDTH] and not segmentation_to_mask(runs, HEIGHT, WIDTH).any()


def test_no_masks_give_no_run_lengths():
    none = np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32)
    assert encode_masks(*none, height=HEIGHT, width=WIDTH) == []


@pytest.mark.parametrize("at", [(0, 0), (13, 9), (None, 9), (13, None)])
@pytest.mark.parametrize("filled", [0.0, 0.3, 0.9, 1.0])
def test_run_lengths_of_a_window_are_those_of_the_whole_image(at, filled, rng):
    """Also where the window reaches from edge to edge, so that runs go on from one column to the next."""
    x, y = (0 if value is None else value for value in at)
    shape = (HEIGHT if at[1] is None else 40, WIDTH if at[0] is None else 30)
    inside = rng.random(shape) < filled
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    image[y : y + shape[0], x : x + shape[1]] = inside
    expected = coco_mask.encode(np.asfortranarray(image))
    found = encode_window(inside, x, y, height=HEIGHT, width=WIDTH)
    assert found == {"size": [HEIGHT, WIDTH], "counts": expected["counts"].decode()}


def test_run_lengths_of_a_full_image():
    expected = coco_mask.encode(np.ones((4, 3), np.uint8, order="F"))["counts"].decode()
    assert encode_window(np.ones((4, 3), bool), 0, 0, height=4, width=3)["counts"] == expected
