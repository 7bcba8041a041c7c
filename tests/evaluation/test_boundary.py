"""The boundary F-score against a search over all pairs of boundary pixels."""

import numpy as np
import pytest

from segjax.evaluation.boundary import BoundaryScores, boundaries, boundary_f
from segjax.types import IGNORE
from tests.evaluation.labelled import drawn_map, spoiled


def slow_boundary(label_map, k):
    """Pixels of class k next to a labelled pixel of another class, one by one."""
    h, w = label_map.shape
    found = []
    for y in range(h):
        for x in range(w):
            beside = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            labels = [label_map[a, b] for a, b in beside if 0 <= a < h and 0 <= b < w]
            if label_map[y, x] == k and any(other not in (k, IGNORE) for other in labels):
                found.append((y, x))
    return np.array(found, float).reshape(-1, 2)


def slow_f(truth, predicted, k, tolerance):
    predicted = np.where(truth == IGNORE, IGNORE, predicted)
    a, b = slow_boundary(truth, k), slow_boundary(predicted, k)
    if not len(a) and not len(b):
        return np.nan
    if not len(a) or not len(b):
        return 0.0
    near = np.linalg.norm(a[:, None] - b[None], axis=-1) <= tolerance * np.linalg.norm(truth.shape)
    recall, precision = near.any(1).mean(), near.any(0).mean()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.04, 0.1])
def test_equals_a_search_over_all_pairs(tolerance):
    rng = np.random.default_rng(int(tolerance * 1000))
    for _ in range(4):
        truth = drawn_map(rng, 30, 40)  # a diagonal of 50: tolerances of 0, 1, 2 and 5 pixels, all of them distances
        predicted = spoiled(rng, truth)
        expected = [slow_f(truth, predicted, k, tolerance) for k in range(4)]
        np.testing.assert_allclose(boundary_f(truth, predicted, classes=4, tolerance=tolerance), expected)


def test_by_hand():
    truth, predicted = np.zeros((2, 30, 40), np.uint8)
    truth[:, 20:], predicted[:, 22:] = 1, 1
    # The boundaries are 2 pixels apart, and 2 pixels are 0.04 of the diagonal.
    np.testing.assert_array_equal(boundary_f(truth, predicted, classes=3, tolerance=0.04), [1, 1, np.nan])
    np.testing.assert_array_equal(boundary_f(truth, predicted, classes=3, tolerance=0.039), [0, 0, np.nan])
    np.testing.assert_array_equal(boundary_f(truth, truth, classes=3), [1, 1, np.nan])
    np.testing.assert_array_equal(boundary_f(truth, np.zeros_like(truth), classes=3), [0, 0, np.nan])


def test_unlabelled_pixels_and_the_border_make_no_boundary():
    truth = np.zeros((20, 20), np.uint8)
    truth[5:15, 5:15] = IGNORE
    predicted = np.zeros((20, 20), np.uint8)
    predicted[6:14, 6:14] = 1
    assert not boundaries(truth).any()
    assert np.isnan(boundary_f(truth, predicted, classes=2)).all()


def test_default_tolerance_is_a_share_of_the_diagonal():
    truth, moved, far = np.zeros((3, 240, 320), np.uint8)  # a diagonal of 400: 3 pixels
    truth[100:], moved[103:], far[104:] = 1, 1, 1
    np.testing.assert_array_equal(boundary_f(truth, moved, classes=2), [1, 1])
    np.testing.assert_array_equal(boundary_f(truth, far, classes=2), [0, 0])
    with pytest.raises(ValueError, match="tolerance must be 0 or more, got -1.0"):
        boundary_f(truth, far, classes=2, tolerance=-1.0)


def test_means_over_images_and_classes(rng):
    images = [drawn_map(rng, 40, 50, classes=k) for k in (2, 3, 4)] + [np.zeros((40, 50), np.uint8)]
    pairs = [(image, spoiled(rng, image)) for image in images[:3]] + [(images[3], images[3])]
    scores = BoundaryScores(4)
    for truth, predicted in pairs:
        scores.add(truth, predicted)
    table = np.array([boundary_f(*pair, classes=4) for pair in pairs[:3]])
    assert scores.mean == pytest.approx(np.mean(np.nanmean(table, axis=1)))
    seen = ~np.isnan(table).all(0)
    np.testing.assert_allclose(scores.by_class[seen], np.nanmean(table[:, seen], axis=0))
    assert np.isnan(scores.by_class[~seen]).all() and np.isnan(BoundaryScores(2).mean)
