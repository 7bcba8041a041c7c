"""The rules for boxes, against a loop over them."""

import math

import numpy as np
import pytest

from segjax.data.sanitize import clean_boxes, fault_kinds
from segjax.data.source import Problems

VALUES = (
    -50.0,
    -1.5,
    -1.0,
    0.0,
    0.5,
    20.0,
    39.5,
    40.0,
    41.0,
    41.5,
    60.0,
    61.0,
    62.0,
    500.0,
    math.nan,
    math.inf,
    -math.inf,
)


def oracle(box, height, width):
    """(usable, clipped box, kind of fault) by the documented rules, one comparison at a time."""
    x1, y1, x2, y2 = box
    if not all(map(math.isfinite, box)):
        return False, None, "malformed or non-finite box"
    if x2 < x1 or y2 < y1:
        return False, None, "inverted box"
    if x2 == x1 or y2 == y1:
        return False, None, "zero-size box"
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return False, None, "box outside the image"
    clipped = [max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)]
    far = max(abs(a - b) for a, b in zip(box, clipped)) > 1
    return True, clipped, "box partly outside the image" if far else None


def test_every_box_is_treated_as_the_loop_says(rng):
    boxes = rng.choice(VALUES, (4000, 4))
    sizes = np.tile([[40, 60]], (len(boxes), 1))
    problems = Problems()
    with np.errstate(invalid="ignore"):
        clipped, usable = clean_boxes(
            boxes, sizes, image_ids=[1] * len(boxes), annotation_ids=range(len(boxes)), problems=problems
        )
    kinds = {problem.annotation_id: problem.kind for problem in problems}
    actions = {(problem.kind, problem.action) for problem in problems}
    for i, box in enumerate(boxes.tolist()):
        expected_usable, expected, kind = oracle(box, 40, 60)
        assert (bool(usable[i]), kinds.get(i)) == (expected_usable, kind), box
        assert expected is None or clipped[i].tolist() == expected
    assert len({kind for kind, _ in actions}) == 5
    assert {action for kind, action in actions if kind.startswith("box partly")} == {"clipped"}
    assert {action for kind, action in actions if not kind.startswith("box partly")} == {"skipped"}


def test_each_box_has_its_own_image_size():
    boxes = np.array([[0.0, 0, 50, 30], [0, 0, 50, 30]])
    assert fault_kinds(boxes, np.array([[30, 50], [30, 40]])).tolist() == [0, 5]


@pytest.mark.parametrize("box", [[59.9999999, 5, 60, 9], [1e-50, 1e-50, 2e-50, 2e-50]])
def test_a_box_too_thin_for_float32_is_of_zero_size(box):
    problems = Problems()
    _, usable = clean_boxes(
        np.array([box]), np.array([[40, 60]]), image_ids=["a"], annotation_ids=[7], problems=problems
    )
    assert not usable.any() and problems.counts() == {"zero-size box (skipped)": 1}


def test_no_boxes():
    boxes, usable = clean_boxes(
        np.zeros((0, 4)), np.zeros((0, 2), int), image_ids=[], annotation_ids=[], problems=Problems()
    )
    assert boxes.shape == (0, 4) and usable.shape == (0,)
