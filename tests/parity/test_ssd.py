"""SSD300 and SSDLite against torchvision: the same weights and images, the same priors, choices, predictions, steps.

torchvision resizes all images to 300 or 320 pixels square; ours have that size to begin with.
"""

import re
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from benchmarks.random_weights import SCORE_DEVIATION, randomize_norms, spread  # noqa: E402
from segjax.pretrained import from_torchvision, model  # noqa: E402
from segjax.pretrained.convert import apply_rules  # noqa: E402
from segjax.pretrained.models import SINGLE_SHOT  # noqa: E402
from segjax.types import Batch, Instances, Model, Variables  # noqa: E402
from tests.parity.conftest import (  # noqa: E402
    CLASSES,
    Objects,
    as_batch,
    as_targets,
    as_torch,
    random_images,
    random_objects,
)
from tests.parity.detectors import TINY, biased, images_of, jax_step, partners, relative_errors  # noqa: E402

SIDES = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}
BACKGROUND = 6.0
"""What the background's logit has more than the others' mean, so that most priors show nothing."""


class Pair(NamedTuple):
    """One detector twice."""

    name: str
    torch: Any
    model: Model
    variables: Variables
    side: int


def random_detector(name: str, side: int) -> Any:
    """torchvision's with weights that spread its scores and move its boxes, in evaluation mode."""
    torch.manual_seed(0)
    make = getattr(torchvision.models.detection, name)
    detector = make(weights=None, weights_backbone=None, num_classes=CLASSES + 1).eval()
    images = as_torch(random_images(np.random.default_rng(7), *4 * [(side, side)]))
    with torch.no_grad():
        batch, _ = detector.transform(images)
        run = lambda: detector.head(list(detector.backbone(batch.tensors).values()))  # noqa: E731
        randomize_norms(detector, run)
        maps = list(detector.backbone(batch.tensors).values())
        for head, deviation in (
            (detector.head.classification_head, SCORE_DEVIATION),
            (detector.head.regression_head, 1.0),
        ):
            for layer in head.module_list:
                last = layer if isinstance(layer, torch.nn.Conv2d) else layer[-1]
                spread(last, deviation, lambda: head(maps))  # noqa: B023
                if deviation == SCORE_DEVIATION:
                    last.bias.view(-1, CLASSES + 1)[:, 0] += BACKGROUND
    return detector


def exact(images: list[np.ndarray], objects: list[Objects] | None = None) -> Batch:
    """A batch without any padding, of boxes alone."""
    batch, side = as_batch(images, objects), images[0].shape[0]
    few = batch.instances
    return batch.replace(images=batch.images[:, :side, :side], instances=Instances(few.boxes, few.labels, few.valid))


@pytest.fixture(scope="module", params=SIDES)
def pair(request):
    """One detector in torchvision and in segjax."""
    side = SIDES[request.param]
    detector = random_detector(request.param, side)
    variables = from_torchvision(request.param, detector.state_dict())
    return Pair(request.param, detector, model(request.param, classes=CLASSES), variables, side)


@pytest.fixture(scope="module")
def predictions(pair):
    """(ours, theirs): the detections of each image."""
    images = random_images(np.random.default_rng(1), *2 * [(pair.side, pair.side)])
    batch = exact(images)
    ours = images_of(jax.device_get(jax.jit(pair.model.predict)(pair.variables, batch.images, batch.sizes)))
    with torch.no_grad():
        theirs = [{k: v.numpy() for k, v in image.items()} for image in pair.torch(as_torch(images))]
    return ours, theirs


def torch_step(pair: Pair, images: list[np.ndarray], objects: list[Objects]):
    """(losses, gradients, running statistics) of a step of torchvision's, under our names."""
    detector, counts = pair.torch, {}
    norms = {name: m for name, m in detector.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    count = lambda name: lambda _, x, __: counts.update({name: x[0].numel() // x[0].shape[1]})  # noqa: E731
    hooks = [norm.register_forward_hook(count(name)) for name, norm in norms.items()]
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    detector.train()
    detector.zero_grad()
    losses = detector(as_torch(images), as_targets(objects))
    sum(torch.log(loss + TINY) for loss in losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in detector.named_parameters()}
    momenta = {name: norm.momentum for name, norm in norms.items()}
    after = biased(before, detector.state_dict(), counts, momenta) if norms else {}
    detector.load_state_dict(before)
    detector.eval()
    for hook in hooks:
        hook.remove()
    rules = SINGLE_SHOT[pair.name].rules()
    return (
        {"class": losses["classification"].item(), "box": losses["bbox_regression"].item()},
        apply_rules(rules, gradients, name="the gradients")["params"],
        apply_rules(rules, after, name="the statistics").get("batch_stats", {}),
    )


@pytest.fixture(scope="module")
def steps(pair):
    """(ours, theirs): a step of training on three images, one of them empty."""
    rng, size = np.random.default_rng(2), (pair.side, pair.side)
    images, objects = random_images(rng, size, size, size), [random_objects(rng, size, n) for n in (6, 0, 4)]
    return jax_step(pair)(pair.variables, exact(images, objects)), torch_step(pair, images, objects)


def test_detections(predictions):
    for found, expected in zip(*predictions):
        assert len(found["scores"]) >= 30 and len(set(found["labels"])) >= 5
        assert found["scores"].max() - found["scores"].min() > 0.2, "scores must spread"
        partner = partners(found, expected)
        np.testing.assert_allclose(found["boxes"], expected["boxes"][partner], atol=5e-3)
        np.testing.assert_allclose(found["scores"], expected["scores"][partner], atol=1e-4)
        np.testing.assert_array_equal(found["labels"] + 1, expected["labels"][partner])


def test_losses(steps):
    (found, *_), (expected, *_) = steps
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert value > 0.1
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_gradients(pair, steps):
    found, expected = steps[0].gradients, steps[1][1]
    errors = relative_errors(found, expected)
    shifts = [path for path in errors if re.search(r"block\d+'\]\['project_norm'\]\['norm'\]\['bias'", path)]
    assert len(shifts) == (15 if pair.name.startswith("ssdlite") else 0)
    for path in shifts:
        # What follows is a 1x1 convolution and a norm, which takes off any shift: the gradients are 0 but for rounding.
        del errors[path]
    for i in range(len(shifts)):
        both = (step["backbone"]["trunk"][f"block{i}"]["project_norm"]["norm"]["bias"] for step in (found, expected))
        assert max(float(np.abs(values).max()) for values in both) < 1e-5
    # As in test_detectors.py: rectifiers, and statistics of the batch.
    noise = 4 if "batch_stats" in pair.variables else 1
    for path, error in errors.items():
        assert error < noise * 1e-2, path
    assert np.median(list(errors.values())) < noise * 2e-3


def test_running_statistics(pair, steps):
    errors = relative_errors(steps[0].statistics, steps[1][2])
    assert bool(errors) == ("batch_stats" in pair.variables)
    for path, error in errors.items():
        assert error < 1e-5, path
