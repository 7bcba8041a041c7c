"""Models of semantic segmentation with torchvision's weights: its logits, losses, gradients and statistics.

Tolerances are what float32 makes of fifty layers, see test_backbones.py and test_detectors.py.
"""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from segjax.pretrained import from_torchvision, model  # noqa: E402
from tests.parity.conftest import random_images  # noqa: E402
from tests.parity.detectors import relative_errors  # noqa: E402
from tests.parity.segmenters import (  # noqa: E402
    CLASSES,
    jax_step,
    labelled_batch,
    make_pair,
    torch_input,
    torch_step,
)

TRAINED = ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
ODD = (97, 131)
"""No multiple of any stride."""


@pytest.fixture(scope="module", params=TRAINED)
def pair(request):
    """One model in torchvision and in segjax."""
    return make_pair(request.param)


@pytest.fixture(scope="module")
def steps(pair):
    """(ours, theirs): a step of training. Four images: the mean of a map has no variance over few."""
    batch = labelled_batch(np.random.default_rng(2), 4, (64, 96))
    return jax_step(pair, batch), torch_step(pair, batch)


def check_logits(network, variables, theirs, size, count=2):
    """Equal at every pixel of the images, and of many classes there."""
    images = random_images(np.random.default_rng(1), *count * [size])
    sizes = np.full((count, 2), size, np.int32)
    ours = jax.jit(network.predict)(variables, np.stack(images), sizes)
    with torch.no_grad():
        expected = theirs(torch_input(images))["out"].movedim(1, -1).numpy()
    assert ours.logits.shape == (count, *size, CLASSES) == expected.shape
    np.testing.assert_allclose(ours.logits, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    assert expected.std() > 0.5
    assert np.count_nonzero(np.bincount(np.asarray(ours.labels).ravel()) > 100) >= 3


def test_logits(pair):
    check_logits(pair.model, pair.variables, pair.torch, ODD)


@pytest.mark.parametrize("name", ["fcn_resnet101", "deeplabv3_resnet101"])
def test_logits_of_the_deeper_ones(name):
    deeper = make_pair(name)
    check_logits(deeper.model, deeper.variables, deeper.torch, (65, 97), count=1)


def test_frozen_norms_compute_the_same():
    """The backbone's as constants; the heads' are trained still."""
    pair = make_pair("lraspp_mobilenet_v3_large")
    network = model(pair.name, classes=CLASSES, norm="frozen_batch")
    variables = from_torchvision(pair.name, pair.torch.state_dict(), norm="frozen_batch")
    assert "classifier" not in variables["frozen"] and "backbone" not in variables["batch_stats"]
    check_logits(network, variables, pair.torch, ODD)


def test_losses(steps):
    found, expected = (step.losses for step in steps)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert value > 0.5
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_gradients(steps):
    found, expected = (step.gradients for step in steps)
    norms = relative_errors(expected, jax.tree.map(np.zeros_like, expected))
    # What is added to a channel before a norm of the batch has no gradient: both find rounding there.
    noise = 1e-4 * max(norms.values())
    errors = {path: e for path, e in relative_errors(found, expected).items() if norms[path] > noise}
    assert len(errors) > 0.8 * len(norms)
    for path, error in errors.items():
        assert error < 4e-2, path
    assert np.median(list(errors.values())) < 8e-3


def test_running_statistics(steps):
    for path, error in relative_errors(*(step.statistics for step in steps)).items():
        assert error < 1e-5, path
