"""Masks, joints, attributes and proposals under transforms: they go where the boxes and the pixels go."""

import dataclasses

import cv2
import numpy as np
import pytest

from segjax.data import transforms
from segjax.data.masks import draw_masks
from segjax.data.source import Example
from segjax.data.transforms import ColorJitter, HorizontalFlip, ScaleJitter

HEIGHT, WIDTH = 90, 120
FLIP = (0, 2, 1)


def example(rng, count=5):
    """Random polygons with the boxes around them, three joints inside each box, and the boxes as proposals."""
    centres = rng.uniform((25, 25), (WIDTH - 25, HEIGHT - 25), (count, 2))
    turns = np.sort(rng.uniform(0, 2 * np.pi, (count, 9)))
    reach = rng.uniform(8, 24, (count, 9, 1))
    polygons = centres[:, None] + reach * np.stack([np.cos(turns), np.sin(turns)], axis=-1)
    drawn = draw_masks([[polygon.ravel().tolist()] for polygon in polygons], HEIGHT, WIDTH)
    boxes = np.array([extent(mask) for mask in drawn], np.float32)
    at = boxes[:, None, :2] + rng.uniform(0, 1, (count, 3, 2)) * (boxes[:, None, 2:] - boxes[:, None, :2])
    points = np.concatenate([at, rng.integers(0, 3, (count, 3, 1))], axis=-1).astype(np.float32)
    return Example(
        image=rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8),
        boxes=boxes,
        labels=np.arange(count, dtype=np.int32),
        masks=drawn,
        keypoints=points * (points[..., 2:] > 0),
        extra={"angle": np.arange(count, dtype=np.float32), "colour": np.ones((count, 3), np.float32)},
        proposals=boxes[::-1].copy(),
        proposal_scores=np.arange(count, 0, -1, dtype=np.float32),
    )


def extent(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def assert_together(one, tolerance):
    """Masks fill their boxes, labelled joints lie within them, and unlabelled ones are zero."""
    assert one.masks.shape == (len(one.labels), *one.image.shape[:2])
    for box, mask, points in zip(one.boxes, one.masks, one.keypoints):
        np.testing.assert_allclose(extent(mask), box, atol=tolerance)
        seen = points[:, 2] > 0
        assert (points[seen, :2] >= box[:2] - 1e-3).all() and (points[seen, :2] <= box[2:] + 1e-3).all()
        assert not points[~seen].any()


@pytest.mark.parametrize("size", [(180, 240), (135, 150), (60, 80), (90, 120)])
def test_resizing_moves_everything_alike(rng, size):
    before = example(rng)
    after = transforms.resize(before, size)
    assert_together(after, tolerance=1.0)
    np.testing.assert_array_equal(after.proposals, after.boxes[::-1])
    ratio = np.array([size[1] / WIDTH, size[0] / HEIGHT, 1])
    np.testing.assert_allclose(after.keypoints, before.keypoints * ratio, rtol=1e-6)
    assert after.keypoints.dtype == after.proposals.dtype == np.float32


def test_flipping_moves_everything_and_exchanges_sides(rng):
    before, flip = example(rng), HorizontalFlip(1.0, FLIP)
    after = flip(before, rng)
    assert_together(after, tolerance=0)
    np.testing.assert_array_equal(after.masks, before.masks[:, :, ::-1])
    np.testing.assert_array_equal(after.proposals, after.boxes[::-1])
    np.testing.assert_array_equal(after.keypoints[:, 1, 2], before.keypoints[:, 2, 2])
    labelled = before.keypoints[:, 0, 2] > 0
    np.testing.assert_allclose(after.keypoints[labelled, 0, 0], WIDTH - before.keypoints[labelled, 0, 0])


def test_flipping_twice_changes_nothing(rng):
    before, flip = example(rng), HorizontalFlip(1.0, FLIP)
    after = flip(flip(before, rng), rng)
    for name in ("image", "masks", "labels"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    for name in ("boxes", "keypoints", "proposals"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=1e-4)


@pytest.mark.parametrize("flip", [None, (0, 1), (0, 1, 1)])
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_joints_cannot_be_flipped_without_their_other_sides(rng, flip, probability):
    with pytest.raises(ValueError, match=r"3 joints.*flip=source\.keypoints\.flip"):
        HorizontalFlip(probability, flip)(example(rng), rng)


def test_a_crop_takes_the_labels_of_joints_outside_it(rng):
    before = example(rng)
    points = np.zeros((5, 3, 3), np.float32)
    points[0] = [[20, 30, 2], [19.5, 40, 2], [60, 50, 1]]  # on the corner, left of the window, inside
    points[1] = [[80, 70, 1], [80.5, 60, 1], [0, 0, 0]]  # on the far corner, right of it, never labelled
    after = transforms.crop(dataclasses.replace(before, keypoints=points), top=30, left=20, height=40, width=60)
    np.testing.assert_array_equal(after.keypoints[0], [[0, 0, 2], [0, 0, 0], [40, 20, 1]])
    np.testing.assert_array_equal(after.keypoints[1], [[60, 40, 1], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(after.masks, before.masks[:, 30:70, 20:80])


def test_a_crop_drops_proposals_that_it_leaves_nothing_of(rng):
    boxes = np.array([[0, 0, 10, 10], [5, 5, 50, 50], [20, 0, 30, 30], [30, 40, 40, 50]], np.float32)
    before = dataclasses.replace(example(rng), proposals=boxes, proposal_scores=np.array([4, 3, 2, 1], np.float32))
    after = transforms.crop(before, top=20, left=25, height=30, width=40)
    np.testing.assert_array_equal(after.proposals, [[0, 0, 25, 30], [0, 0, 5, 10], [5, 20, 15, 30]])
    np.testing.assert_array_equal(after.proposal_scores, [3, 2, 1])


def test_scale_jitter_keeps_everything_together(rng):
    kept = lost = 0
    for _ in range(30):
        before = example(rng)
        after = ScaleJitter((0.6, 2.5), min_visible=0.3)(before, rng, (96, 128))
        assert after.masks.shape == (len(after.labels), *after.image.shape[:2])
        assert len(after.extra["angle"]) == len(after.keypoints) == len(after.labels)
        np.testing.assert_array_equal(after.extra["angle"], after.labels)
        for box, mask, points in zip(after.boxes, after.masks, after.keypoints):
            x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask))
            # A mask that the window cuts may be smaller than its clipped box and never larger.
            assert x >= box[0] - 1 and y >= box[1] - 1 and x + width <= box[2] + 1 and y + height <= box[3] + 1
            seen = points[:, 2] > 0
            assert (points[seen, :2] >= box[:2] - 1e-3).all() and (points[seen, :2] <= box[2:] + 1e-3).all()
        limit = np.array(after.image.shape[1::-1] * 2)
        assert (after.proposals >= 0).all() and (after.proposals <= limit + 1e-3).all()
        assert (after.proposals[:, 2:] > after.proposals[:, :2]).all()
        kept, lost = kept + len(after.labels), lost + 5 - len(after.labels)
    assert kept > 50 and lost > 10


def test_selecting_keeps_what_belongs_to_the_objects(rng):
    before = example(rng)
    after = transforms.select(before, np.array([True, False, True, False, False]))
    assert after.labels.tolist() == after.extra["angle"].tolist() == [0, 2] and after.extra["colour"].shape == (2, 3)
    np.testing.assert_array_equal(after.masks, before.masks[[0, 2]])
    np.testing.assert_array_equal(after.keypoints, before.keypoints[[0, 2]])
    assert after.proposals is before.proposals
    assert transforms.select(before, np.ones(5, bool)) is before


def test_letterbox_pads_masks_and_colours_leave_them(rng):
    before = example(rng)
    after, size = transforms.letterbox(before, (128, 128))
    assert after.masks.shape == (5, 128, 128) and not after.masks[:, size[0] :].any()
    assert_together(after, tolerance=1.0)
    assert ColorJitter()(before, rng).masks is before.masks
