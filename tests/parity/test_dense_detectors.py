"""torchvision's RetinaNet, in both forms, and FCOS: the same weights and images, the same outputs, predictions, losses
and gradients. See `test_faster_rcnn.py` for what the tolerances are made of."""

from unittest import mock

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from segjax.models.single_shot import single_shot  # noqa: E402
from segjax.ops import box_losses  # noqa: E402
from segjax.pretrained import model  # noqa: E402
from tests.parity.conftest import CLASSES  # noqa: E402
from tests.parity.detectors import (  # noqa: E402
    both_predictions,
    both_steps,
    check_boxes,
    check_losses,
    check_statistics,
    relative_errors,
)
from tests.parity.pyramid_detectors import NAMES, make_pair  # noqa: E402
from tests.parity.test_box_ops import both, random_boxes  # noqa: E402

SIZES = [(192, 256), (160, 224)]


@pytest.fixture(scope="module", params=NAMES)
def pair(request):
    """One detector in torchvision and in segjax."""
    return make_pair(request.param)


@pytest.fixture(scope="module")
def predictions(pair):
    """(ours, theirs): the detections of each image."""
    return both_predictions(pair, SIZES)


@pytest.fixture(scope="module")
def steps(pair):
    """(ours, theirs): a step of training, of an image with six objects, one with four and one with none."""
    return both_steps(pair, [*SIZES, SIZES[0]], (6, 4, 0))


def made_of(name, **options):
    """(trunk, head) of which `pretrained.model` makes the detector."""
    with mock.patch(f"segjax.models.{name.split('_')[0]}.single_shot", wraps=single_shot) as spy:
        model(name, **options)
    return spy.call_args.args


def test_what_the_heads_say(pair):
    """Of the same features, at every place of every level."""
    rng = np.random.default_rng(3)
    maps = [
        rng.normal(0, 1, (2, height, width, 256)).astype(np.float32) for height, width in ((12, 16), (6, 8), (3, 4))
    ]
    _, head = made_of(pair.name, classes=CLASSES)
    network = {"params": pair.variables["params"]["head"]}
    ours = jax.jit(head.network.apply)(network, maps)
    with torch.no_grad():
        theirs = pair.torch.head([torch.from_numpy(x).permute(0, 3, 1, 2) for x in maps])
    assert len(theirs) == len(ours)
    for expected, found in zip(theirs.items(), (ours.logits, *ours[1:])):
        name, expected = expected
        expected = expected.numpy()[..., 1:] if name == "cls_logits" else expected.numpy()
        found = np.asarray(found).reshape(expected.shape)
        assert expected.std() > 0.1, name
        np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max(), rtol=0, err_msg=name)


def test_detections(predictions):
    for found, expected in zip(*predictions):
        assert len(found["scores"]) >= 30
        check_boxes(found, expected)


def test_losses(steps):
    check_losses(*steps, least=1e-3)


def test_gradients(pair, steps):
    found, expected = (step.gradients for step in steps)
    errors = relative_errors(found, expected)
    # torchvision's own gradients of FCOS in float32 and float64 are up to 1.6e-2 apart, in the median 8e-4; and
    # statistics of the batch hand on the noise of what is behind them, see test_detectors.py.
    noise = 4 if "batch_stats" in pair.variables else 2 if pair.name.startswith("fcos") else 1
    for path, error in errors.items():
        assert error < noise * 1e-2, path
    assert np.median(list(errors.values())) < noise * 2e-3


def test_running_statistics(pair, steps):
    check_statistics(pair, *steps)


@pytest.fixture(scope="module", params=NAMES)
def defaults(request):
    """(trunk, head, torchvision's) as they are made without options but for the weights."""
    with torch.device("meta"):
        make = getattr(torchvision.models.detection, request.param)
        return (*made_of(request.param), make(weights=None, weights_backbone=None))


def test_defaults(defaults):
    trunk, head, theirs = defaults
    ours = head.settings
    assert list(trunk.mean) == theirs.transform.image_mean and list(trunk.std) == theirs.transform.image_std
    assert (ours.score_threshold, ours.nms_threshold) == (theirs.score_thresh, theirs.nms_thresh)
    assert (ours.candidates, ours.detections) == (theirs.topk_candidates, theirs.detections_per_img)
    # Theirs counts the background.
    assert head.network.classes == theirs.head.classification_head.num_classes - 1
    generator = theirs.anchor_generator
    if hasattr(ours, "radius"):
        assert ours.radius == theirs.center_sampling_radius
        assert tuple((int(unit),) for unit in ours.units) == generator.sizes
        return
    assert ours.anchor_sizes == generator.sizes
    assert (ours.ratios,) * len(ours.anchor_sizes) == generator.aspect_ratios
    matcher = theirs.proposal_matcher
    assert (ours.positive_threshold, ours.negative_threshold) == (matcher.high_threshold, matcher.low_threshold)
    assert matcher.allow_low_quality_matches and ours.box_loss == theirs.head.regression_head._loss_type


def test_giou_loss(rng):
    boxes, targets = random_boxes(rng, 200), random_boxes(rng, 200)
    targets[:100] = boxes[:100] + rng.uniform(-8, 8, (100, 4)).astype(np.float32)
    targets[:100, 2:] = np.maximum(targets[:100, 2:], targets[:100, :2] + 1)
    (a, b), (x, y) = both(boxes, targets)
    x.requires_grad_()
    expected = torchvision.ops.generalized_box_iou_loss(x, y)
    expected.sum().backward()
    np.testing.assert_allclose(box_losses.giou_loss(a, b), expected.detach(), atol=2e-6)
    gradient = jax.grad(lambda a: box_losses.giou_loss(a, b).sum())(a)
    np.testing.assert_allclose(gradient, x.grad, atol=1e-5)
