"""Label maps under transforms: an image whose colour is its label must still show, at each pixel, what the map says."""

import dataclasses

import cv2
import numpy as np
import pytest

from segjax.data import transforms
from segjax.data.source import Example
from segjax.data.transforms import ColorJitter, HorizontalFlip, ScaleJitter
from segjax.types import IGNORE

STEP = 20
"""Grey levels between classes."""


def example(label_map):
    """An image that shows the map, and the map with the edges of its regions left out."""
    image = np.repeat((label_map * STEP)[..., None], 3, axis=2).astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    inside = cv2.erode(label_map, kernel) == cv2.dilate(label_map, kernel)
    known = np.where(inside, label_map, np.uint8(IGNORE))
    return Example(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int32), label_map=known)


def patches(rng, height, width, classes=11):
    """A map of large regions with slanted edges: the classes of random rectangles and circles over each other."""
    found = np.zeros((height, width), np.uint8)
    for _ in range(12):
        x, y = rng.integers(0, (width, height)).tolist()
        reach, label = int(rng.integers(8, height // 2)), int(rng.integers(classes))
        if rng.random() < 0.5:
            cv2.circle(found, (x, y), reach, label, -1)
        else:
            cv2.rectangle(found, (x, y), (x + reach, y + reach // 2), label, -1)
    return found


def assert_aligned(one):
    """Wherever the map has a class, the image has its level exactly.

    A blend reads only neighbours of the nearest pixel, and those are of the same class where the map has one.
    """
    assert one.label_map.shape == one.image.shape[:2] and one.label_map.dtype == np.uint8
    known = one.label_map != IGNORE
    np.testing.assert_array_equal(one.image[known], (one.label_map[known] * STEP)[:, None].repeat(3, axis=1))
    return known.mean()


@pytest.mark.parametrize("seed", range(8))
def test_every_transform_keeps_image_and_map_together(seed):
    rng = np.random.default_rng(seed)
    before = example(patches(rng, *rng.integers(60, 140, 2).tolist()))
    height, width = before.label_map.shape
    scaled = transforms.resize(before, tuple(rng.integers(40, 250, 2).tolist()))
    cropped = transforms.crop(before, top=7, left=5, height=height - 20, width=width - 9)
    fitted = transforms.fit_inside(before, rng, (96, 128))
    jittered = ScaleJitter((0.5, 2.0))(before, rng, (96, 128))
    flipped = HorizontalFlip(1.0)(jittered, rng)
    for after in (scaled, cropped, fitted, jittered, flipped):
        assert assert_aligned(after) > 0.5
    np.testing.assert_array_equal(flipped.label_map, jittered.label_map[:, ::-1])
    assert ColorJitter()(before, rng).label_map is before.label_map


@pytest.mark.parametrize("axis", [0, 1])
def test_edges_lie_exactly_where_the_image_has_them(rng, axis):
    """Along one axis, the nearest pixel is the one whose level a linear blend is nearer to: the two agree everywhere.

    Nearest neighbour without half-pixel centres moves the edges, and disagrees at up to a sixth of these pixels.
    """
    stripes = np.repeat(rng.integers(0, 2, 40), 5).astype(np.uint8)  # STEP apart, so that levels cross between them
    stripes = np.broadcast_to(np.expand_dims(stripes, axis), (200, 200)).copy()
    before = dataclasses.replace(example(stripes), label_map=stripes)
    for out in (67, 131, 173, 257, 311, 555):
        after = transforms.resize(before, (out, out))
        level = after.image[..., 0].astype(int)
        clear = np.abs(level - STEP / 2) > 1  # not half-way, where either is as near
        np.testing.assert_array_equal(level[clear] > STEP / 2, after.label_map[clear] == 1)
        assert clear.mean() > 0.95


def test_labels_are_never_blended(rng):
    noise = np.where(rng.random((60, 80)) < 0.5, np.uint8(IGNORE), np.uint8(3))
    before = dataclasses.replace(example(noise), label_map=noise)
    for _ in range(10):
        after = ScaleJitter((0.4, 3.0))(before, rng, (64, 96))
        assert set(np.unique(after.label_map)) == {3, IGNORE}


def test_letterbox_pads_with_pixels_that_do_not_count(rng):
    before = dataclasses.replace(example(patches(rng, 60, 80)), label_map=patches(rng, 60, 80))
    after, (height, width) = transforms.letterbox(before, (96, 96))
    assert after.label_map.shape == (96, 96) and (height, width) == (72, 96)
    assert (after.label_map[height:] == IGNORE).all() and (after.label_map[:height] < 11).all()


def test_scale_jitter_crops_windows_of_exact_size(rng):
    """Images of 360x480 in buckets of 360x360 with scales (2/3, 8/3): crops of images at half to twice their size."""
    rows, columns = np.mgrid[:360, :480]
    before = Example(
        np.stack([rows // 2, columns // 2, rows * 0], axis=-1).astype(np.uint8),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.int32),
        label_map=(columns // 2).astype(np.uint8),
    )
    jitter, scales, lefts = ScaleJitter((2 / 3, 8 / 3)), [], []
    for _ in range(40):
        after = jitter(before, rng, (360, 360))
        height, width = after.label_map.shape
        down, across = (np.ptp(after.image[..., i].astype(float)) * 2 / n for i, n in enumerate((height, width)))
        scale = 1 / across
        assert scale == pytest.approx(1 / down, rel=0.05)  # the aspect ratio stays
        assert (height, width) == (360, 360) or scale < 1.02
        np.testing.assert_allclose(height, min(360, 360 * scale), rtol=0.03)
        np.testing.assert_allclose(after.label_map, after.image[..., 1], atol=1)
        scales, lefts = [*scales, scale], [*lefts, int(after.label_map[0, 0])]
    assert 0.45 < min(scales) < 0.7 and 1.7 < max(scales) < 2.1 and len(set(lefts)) > 15
