"""Patches and larger canvases: what is known moves with the pixels, and the patches are those that SSD samples."""

import dataclasses

import numpy as np
import pytest

from segjax.data import transforms
from segjax.data.augment import MEAN_COLOUR, IoUCrop, ZoomOut, canvas, place_at
from segjax.data.source import Example
from segjax.types import IGNORE
from tests.data.painted import assert_exact, numbers_of, painted
from tests.oracles import iou

HEIGHT, WIDTH = 90, 120


def window_of(example):
    """(left, top, right, bottom) in the painted image."""
    (left, top), (right, bottom) = example.image[0, 0, 1:].astype(int), example.image[-1, -1, 1:].astype(int) + 1
    return left, top, right, bottom


def same(a, b):
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.boxes, b.boxes)
    np.testing.assert_array_equal(a.keypoints, b.keypoints)


@pytest.mark.parametrize("minimum", [0.0, 0.1, 0.3])
def test_patches_keep_exactly_the_objects_whose_centre_they_hold(rng, minimum):
    before = painted(rng, HEIGHT, WIDTH)
    whole = 0
    for seed in range(300):
        after = IoUCrop(overlaps=(minimum,))(before, np.random.default_rng(seed))
        if after is before:
            whole += 1
            continue
        assert_exact(after)
        window = left, top, right, bottom = window_of(after)
        x, y = ((before.boxes[:, i] + before.boxes[:, i + 2]) / 2 for i in (0, 1))
        kept = (x > left) & (x < right) & (y > top) & (y < bottom)
        assert numbers_of(after) == (1 + np.flatnonzero(kept)).tolist() != []
        assert max(iou(window, box) for box in before.boxes[kept]) >= minimum
        width, height = right - left, bottom - top
        assert 0.5 <= width / height <= 2 and 0.3 * WIDTH - 1 <= width and 0.3 * HEIGHT - 1 <= height
        joints = before.keypoints[kept]
        inside = (joints[..., 0] < right) & (joints[..., 0] > left) & (joints[..., 1] > top) & (joints[..., 1] < bottom)
        np.testing.assert_array_equal(after.keypoints[..., 2], joints[..., 2] * inside)
    # It is drawn as often as the one overlap. 40 patches may all miss small objects by 0.3, and then it is drawn again.
    assert 110 < whole < (190 if minimum < 0.3 else 270)


def test_a_minimum_that_no_patch_reaches_leaves_the_whole_image(rng):
    """Patches are at least 0.3 of each side, so that none overlaps an object of a few pixels by nine tenths."""
    tiny = transforms.select(painted(rng, HEIGHT, WIDTH), np.arange(6) == 2)
    assert all(IoUCrop(overlaps=(0.9,))(tiny, np.random.default_rng(seed)) is tiny for seed in range(20))


def test_patches_of_high_overlap_are_found_around_large_objects(rng):
    box = (10.0, 10.0, 110.0, 85.0)
    before = dataclasses.replace(
        transforms.select(painted(rng, HEIGHT, WIDTH, masks=False, keypoints=False), np.arange(6) == 0),
        boxes=np.array([box], np.float32),
    )
    crops = [IoUCrop(overlaps=(0.7,))(before, np.random.default_rng(seed)) for seed in range(100)]
    found = [iou(window_of(one), box) for one in crops if one is not before]
    assert len(found) > 30 and min(found) >= 0.7 and np.mean(found) > 0.75


def test_images_without_objects_stay_whole(rng):
    nothing = transforms.select(painted(rng, HEIGHT, WIDTH), np.zeros(6, bool))
    assert IoUCrop()(nothing, rng) is nothing


def test_images_of_a_pixel(rng):
    one = Example(np.zeros((1, 1, 3), np.uint8), np.array([[0, 0, 1, 1]], np.float32), np.zeros(1, np.int32))
    for seed in range(30):
        assert IoUCrop()(one, np.random.default_rng(seed)).boxes.tolist() == [[0, 0, 1, 1]]
        assert len(ZoomOut(1.0)(one, np.random.default_rng(seed)).labels) == 1


def test_zooming_out_moves_everything_and_loses_nothing(rng):
    labelled = np.zeros((HEIGHT, WIDTH), np.uint8)
    before = painted(rng, HEIGHT, WIDTH)
    before = dataclasses.replace(before, label_map=labelled, proposals=before.boxes)
    factors, places = [], []
    for seed in range(200):
        after = ZoomOut(1.0)(before, np.random.default_rng(seed))
        (height, width), (left, top) = after.image.shape[:2], (after.boxes[0] - before.boxes[0]).astype(int)[:2]
        image = after.image[top : top + HEIGHT, left : left + WIDTH]
        np.testing.assert_array_equal(image, before.image)
        beside = np.ones((height, width), bool)
        beside[top : top + HEIGHT, left : left + WIDTH] = False
        assert (after.image[beside] == MEAN_COLOUR).all()
        np.testing.assert_array_equal(after.label_map == IGNORE, beside)
        np.testing.assert_array_equal(after.proposals, after.boxes)
        assert numbers_of(after) == numbers_of(before)
        assert_exact(dataclasses.replace(after, image=np.where(beside[..., None], np.uint8(0), after.image)))
        factors.append((height / HEIGHT + width / WIDTH) / 2)
        places.append((left / max(width - WIDTH, 1), top / max(height - HEIGHT, 1)))
    assert abs(np.mean(factors) - 2.5) < 0.2 and min(factors) < 1.1 and max(factors) > 3.9
    np.testing.assert_allclose(np.mean(places, axis=0), 0.5, atol=0.06)


def test_probabilities_are_kept(rng):
    before = painted(rng, 30, 40)
    out = sum(ZoomOut(0.3)(before, rng) is not before for _ in range(500))
    # Of the patches drawn, one in two is the whole image, which is the example itself.
    patches = sum(IoUCrop(0.6, overlaps=(0.0,))(before, rng) is not before for _ in range(500))
    assert 115 < out < 185 and 115 < patches < 185


def test_the_same_seed_gives_the_same_example(rng):
    before = painted(rng, HEIGHT, WIDTH)
    for transform in (IoUCrop(overlaps=(0.0, 0.1)), ZoomOut(1.0)):
        once, again, other = (transform(before, np.random.default_rng(seed)) for seed in (3, 3, 4))
        same(once, again)
        assert once.image.shape != other.image.shape or (once.boxes.shape != other.boxes.shape)


def test_a_flipped_view_can_be_placed(rng):
    """Masks of a mirrored image are a view that runs backwards."""
    before = transforms.HorizontalFlip(1.0, flip=(0, 1, 2, 3))(painted(rng, HEIGHT, WIDTH), rng)
    onto = np.zeros((HEIGHT + 9, WIDTH + 7, 3), np.uint8)
    assert_exact(place_at(before, onto, top=5, left=3))
    assert canvas((2, 3)).shape == (2, 3, 3)


def test_stretching_fills_the_bucket_and_comes_back(rng):
    before = painted(rng, HEIGHT, WIDTH)
    after = transforms.stretch(before, rng, (270, 120))  # three times as high, exactly
    assert after.image.shape == (270, 120, 3)
    np.testing.assert_array_equal(after.boxes, before.boxes * np.float32([1, 3, 1, 3]))
    np.testing.assert_array_equal(after.masks, before.masks.repeat(3, axis=1))
    other = transforms.stretch(before, rng, (64, 300))
    np.testing.assert_allclose(transforms.unletterbox(other.boxes, (64, 300), (90, 120)), before.boxes, rtol=1e-6)


def test_scale_jitter_stretches(rng):
    before = painted(rng, HEIGHT, WIDTH)
    same_scale = transforms.ScaleJitter((1.0, 1.0), stretch=True)(before, rng, (64, 64))
    np.testing.assert_array_equal(same_scale.image, transforms.stretch(before, rng, (64, 64)).image)
    shown = 0
    for _ in range(20):
        small = transforms.ScaleJitter((0.5, 0.5), stretch=True)(before, rng, (64, 96))
        assert small.image.shape == (32, 48, 3)
        large = transforms.ScaleJitter((2.0, 2.0), stretch=True, min_visible=0.99)(before, rng, (64, 96))
        assert large.image.shape == (64, 96, 3)
        # Shown at twice 96 / 120 of its width and 64 / 90 of its height: the window is half of each side.
        old = before.boxes[[number - 1 for number in numbers_of(large)]]
        factor = (large.boxes[:, 2:] - large.boxes[:, :2]) / (old[:, 2:] - old[:, :2])
        np.testing.assert_allclose(factor, np.tile([1.6, 64 / 45], (len(old), 1)), rtol=0.02)
        shown += len(old)
    assert shown > 10


@pytest.mark.parametrize("make", [
    lambda: IoUCrop(1.5),
    lambda: IoUCrop(scales=(0.5, 0.3)),
    lambda: IoUCrop(aspects=(2.0, 0.5)),
    lambda: IoUCrop(overlaps=(1.5,)),
    lambda: IoUCrop(trials=0),
    lambda: ZoomOut(-0.1),
    lambda: ZoomOut(largest=0.5),
])  # fmt: skip
def test_values_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match=r"^(IoUCrop|ZoomOut): "):
        make()
