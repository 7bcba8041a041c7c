"""Priors against the paper's formulas, one box at a time, in float64."""

import math

import jax
import numpy as np
import pytest

from segjax.models.ssd import LITE_PRIORS, SSD300_COCO, SSD300_VOC, SSD512_COCO, SSD512_VOC
from segjax.ops.priors import grid_priors, prior_shapes, pyramid_priors

SSD300_MAPS, SSD512_MAPS, LITE_MAPS = (38, 19, 10, 5, 3, 1), (64, 32, 16, 8, 4, 2, 1), (20, 10, 5, 3, 2, 1)
FORMS = {
    "ssd300 coco": (SSD300_COCO, 300, SSD300_MAPS, 8732),
    "ssd300 voc": (SSD300_VOC, 300, SSD300_MAPS, 8732),
    "ssd512 coco": (SSD512_COCO, 512, SSD512_MAPS, 24_564),
    "ssd512 voc": (SSD512_VOC, 512, SSD512_MAPS, 24_564),
    "ssdlite320": (LITE_PRIORS, 320, LITE_MAPS, 3234),
}
SMALL = {"scales": (0.2, 0.5, 0.9), "ratios": ((2.0,), (2.0, 3.0)), "size": (60, 90)}


def by_loops(maps, size, scales, ratios, steps, clip=True):
    """Liu et al. 2016, section 2.2: a box of width s sqrt(a) and height s / sqrt(a) for each ratio a, 1 and 1/a too."""
    height, width = size
    boxes = []
    for k, (rows, columns) in enumerate(maps):
        shapes = [(scales[k], scales[k]), (math.sqrt(scales[k] * scales[k + 1]),) * 2]
        for ratio in ratios[k]:
            shapes += [(scales[k] * math.sqrt(a), scales[k] / math.sqrt(a)) for a in (ratio, 1 / ratio)]
        down, across = (steps[k], steps[k]) if steps else (height / rows, width / columns)
        for row in range(rows):
            for column in range(columns):
                for w, h in shapes:
                    w, h = (min(w, 1), min(h, 1)) if clip else (w, h)
                    x, y = (column + 0.5) * across, (row + 0.5) * down
                    half = w * width / 2, h * height / 2
                    boxes.append([x - half[0], y - half[1], x + half[0], y + half[1]])
    return np.array(boxes)


@pytest.mark.parametrize("name", FORMS)
def test_equal_the_formulas(name):
    given, side, sides, count = FORMS[name]
    maps, size = [(n, n) for n in sides], (side, side)
    found = jax.jit(
        lambda: pyramid_priors(maps, size=size, scales=given.scales, ratios=given.ratios, steps=given.steps)
    )()
    assert [len(x) for x in found] == [n * n * a for n, a in zip(sides, given.per_place)]
    found = np.concatenate(found)
    assert found.shape == (count, 4) and found.dtype == np.float32
    np.testing.assert_allclose(found, by_loops(maps, size, given.scales, given.ratios, given.steps), atol=1e-4)


@pytest.mark.parametrize("clip", [True, False])
def test_images_that_are_not_square(clip):
    """Widths are shares of the width, heights of the height; without steps the cells share the image out."""
    maps, options = [(3, 4), (1, 2)], SMALL | {"scales": (0.2, 0.9, 1.1), "clip": clip}
    found = np.concatenate(pyramid_priors(maps, **options))
    np.testing.assert_allclose(found, by_loops(maps, steps=(), **options), atol=1e-4)
    assert (found[:, 2] - found[:, 0] > 90.01).any() != clip


def test_by_hand():
    found = grid_priors((1, 2), size=(10, 20), shapes=prior_shapes(0.2, 0.8, ratios=(4.0,)))
    # Squares of 0.2 and sqrt(0.2 * 0.8) = 0.4 of both sides, 0.4 of the width by 0.1 of the height, and the reverse.
    halves = np.array([[2, 1], [4, 2], [4, 0.5], [1, 2]])
    for x, boxes in zip((5, 15), np.asarray(found).reshape(2, 4, 4)):
        np.testing.assert_allclose(boxes, np.concatenate([[x, 5] - halves, [x, 5] + halves], axis=1), atol=1e-5)


@pytest.mark.parametrize("change, message", [
    ({"scales": (0.2, 0.5)}, "2 maps need as many ratios, one scale more, .* got 2 ratios, 2 scales and 0 steps"),
    ({"ratios": ((2.0,),)}, "got 1 ratios"),
    ({"steps": (8.0,)}, "got 2 ratios, 3 scales and 1 steps"),
    ({"scales": (0.2, 0.0, 0.9)}, "must be positive, got 0.2, 0.0"),
    ({"ratios": ((2.0,), (-1.0,))}, r"must be positive, .* ratios=\(-1.0,\)"),
    ({"steps": (20.0, 60.0)}, r"60 x 90 pixels has a map of 3 x 4 cells, which steps of 20.0 pixels do not cover"),
])  # fmt: skip
def test_what_does_not_fit_is_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        pyramid_priors([(3, 4), (1, 2)], **(SMALL | change))
