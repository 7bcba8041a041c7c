"""IoU on the host against the oracle, pair by pair."""

import numpy as np
import pytest

from segjax.evaluation.box_ious import box_ious
from tests.oracles import iou


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_pair(rng, dtype):
    corners = rng.uniform(0, 60, (30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 40, (30, 2))], axis=1).astype(dtype)
    boxes[4, 2:] = boxes[4, :2]  # without area
    boxes[5] = boxes[6]
    found = box_ious(boxes[:10], boxes)
    expected = [[iou(a, b) for b in boxes.astype(np.float64)] for a in boxes[:10].astype(np.float64)]
    assert found.shape == (10, 30) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[5, 6] == 1 and not found[4].any() and 0 < (found > 0.1).mean() < 1


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_none(n, m):
    assert box_ious(np.ones((n, 4)), np.ones((m, 4))).shape == (n, m)
