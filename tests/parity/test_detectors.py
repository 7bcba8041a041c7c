"""Every two-stage detector of torchvision: the same weights and images, the same predictions, losses and gradients.

`test_faster_rcnn.py` looks at the stages of the first of them one by one, and says what its tolerances are made of.
"""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from segjax.ops.masks import paste  # noqa: E402
from segjax.pretrained.models import TWO_STAGE  # noqa: E402
from tests.parity.detectors import (  # noqa: E402
    both_predictions,
    both_steps,
    check_boxes,
    check_losses,
    check_statistics,
    make_pair,
    partners,
    relative_errors,
)

SIZES = [(192, 256), (160, 224)]
CONSTANT = "['keypoint']['upsample']['bias']"
"""Adds the same to every cell of a map, which a softmax over the cells does not see."""


@pytest.fixture(scope="module", params=[name for name in TWO_STAGE if name != "fasterrcnn_resnet50_fpn"])
def pair(request):
    """One detector in torchvision and in segjax."""
    return make_pair(request.param)


@pytest.fixture(scope="module")
def predictions(pair):
    """(ours, theirs): the detections of each image, by the names that torchvision has for them."""
    return both_predictions(pair, SIZES)


@pytest.fixture(scope="module")
def steps(pair):
    """(ours, theirs): a step of training. The `_v2` forms normalise by the batch, the others by constants."""
    return both_steps(pair, SIZES, (6, 4), classes=pair.classes)


def test_boxes(pair, predictions):
    assert sum(len(image["scores"]) for image in predictions[0]) >= 40
    for found, expected in zip(*predictions):
        check_boxes(found, expected, classes=min(5, pair.classes))


def test_masks(predictions):
    """Over the whole image, as torchvision returns them."""
    for found, expected, size in zip(*predictions, SIZES):
        assert ("masks" in found) == ("masks" in expected)
        if "masks" in found:
            pasted = jax.jit(paste, static_argnames="size")(found["masks"], found["boxes"], size=size)
            theirs = expected["masks"][partners(found, expected), 0]
            difference = np.abs(pasted - theirs)
            # A thousandth of a pixel in a small box moves where its features are taken from.
            assert difference.max() < 5e-4 and difference.mean() < 1e-5
            assert theirs.max() > 0.8 and (theirs > 0.5).sum() > 10_000


def test_keypoints(predictions):
    for found, expected in zip(*predictions):
        assert ("keypoints" in found) == ("keypoints" in expected)
        if "keypoints" in found:
            partner = partners(found, expected)
            # Every joint at the same pixel of its box, which is where theirs is within the tolerance of boxes.
            np.testing.assert_allclose(found["keypoints"][..., :2], expected["keypoints"][partner][..., :2], atol=5e-3)
            scores = expected["keypoints_scores"][partner]
            np.testing.assert_allclose(found["keypoints"][..., 2], scores, atol=1e-3)
            assert scores.std() > 1


def test_losses(steps):
    check_losses(*steps, least=1e-4)


def test_gradients(pair, steps):
    found, expected = (step.gradients for step in steps)
    errors = relative_errors(found, expected)
    if errors.pop(CONSTANT, None):
        both = (np.abs(g["keypoint"]["upsample"]["bias"]).max() for g in (found, expected))
        assert max(both) < 1e-5
    # Behind a rectifier, an input that is zero within noise makes a difference, see test_faster_rcnn.py, and statistics
    # of the batch hand it on. torchvision's own gradients in float32 and float64 are as far apart: those of
    # `fasterrcnn_resnet50_fpn_v2` by up to 1.4e-2, in the median by 4e-3.
    noise = 4 if "batch_stats" in pair.variables else 1
    for path, error in errors.items():
        assert error < noise * (5e-5 if "'rpn'" in path else 1e-2), path
    assert np.median(list(errors.values())) < noise * 2e-3


def test_running_statistics(pair, steps):
    check_statistics(pair, *steps)
