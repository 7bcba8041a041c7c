"""SSD300 and SSDLite against torchvision: the same weights and images, the same priors, choices, predictions, steps.

torchvision resizes all images to 300 or 320 pixels square; ours have that size to begin with.
"""

import re
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from torchvision.models.detection.image_list import ImageList  # noqa: E402

from benchmarks.random_weights import randomize_ssd  # noqa: E402
from segjax.models.heads.ssd import SSDHead, SSDOutputs  # noqa: E402
from segjax.models.single_shot import single_shot  # noqa: E402
from segjax.models.trunk import Trunk  # noqa: E402
from segjax.pretrained import from_torchvision, model  # noqa: E402
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
from tests.parity.detectors import (  # noqa: E402
    both_predictions,
    both_steps,
    check_boxes,
    check_losses,
    check_statistics,
    relative_errors,
)

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
        randomize_ssd(detector, images, background=BACKGROUND)
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
    return both_predictions(pair, 2 * [(pair.side, pair.side)], batch=exact)


@pytest.fixture(scope="module")
def steps(pair):
    """(ours, theirs): a step of training on three images, one of them empty."""
    return both_steps(pair, 3 * [(pair.side, pair.side)], (6, 0, 4), batch=exact)


def made_of(name: str, **options: Any) -> tuple[Trunk, SSDHead]:
    """What `pretrained.model` makes the detector of."""
    with mock.patch("segjax.models.ssd.single_shot", wraps=single_shot) as spy:
        model(name, **options)
    return spy.call_args.args


def test_defaults(pair):
    """All numbers are torchvision's."""
    trunk, head = made_of(pair.name)
    theirs, settings = pair.torch, head.settings
    assert list(trunk.mean) == theirs.transform.image_mean and list(trunk.std) == theirs.transform.image_std
    assert head.network.classes == 90
    assert (settings.weights, settings.positive_threshold) == (
        theirs.box_coder.weights,
        theirs.proposal_matcher.high_threshold,
    )
    assert (settings.score_threshold, settings.nms_threshold) == (theirs.score_thresh, theirs.nms_thresh)
    assert (settings.candidates, settings.detections) == (theirs.topk_candidates, theirs.detections_per_img)
    assert settings.negatives == theirs.neg_to_pos_ratio
    np.testing.assert_allclose(head.priors.scales, theirs.anchor_generator.scales, rtol=1e-12)


def compared_head(pair) -> tuple[Any, np.ndarray, Any]:
    """Our head, the priors of an image as NumPy, and torchvision's."""
    _, head = made_of(pair.name, classes=CLASSES)
    images = torch.zeros(1, 3, pair.side, pair.side)
    with torch.no_grad():
        features = list(pair.torch.backbone(images).values())
    theirs = pair.torch.anchor_generator(ImageList(images, [(pair.side, pair.side)]), features)[0]
    ours = jax.jit(lambda: head.places((pair.side, pair.side), [tuple(x.shape[2:]) for x in features]))()
    return head, np.asarray(ours), theirs


def test_priors_choices_and_losses_of_random_outputs(pair):
    """Each prior says one of six things, so that it is as hard as hundreds of others, of which the first are taken."""
    head, ours, theirs = compared_head(pair)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    rng, size = np.random.default_rng(3), (pair.side, pair.side)
    objects = [random_objects(rng, size, count) for count in (8, 0, 5)]
    # Two objects that claim one prior: torchvision and we give it to the last.
    objects[0].boxes[1], objects[0].labels[:2] = objects[0].boxes[0] + 0.25, (1, 2)
    logits = rng.normal(0, 1, (6, CLASSES + 1)).astype(np.float32)[rng.integers(0, 6, (3, len(ours)))]
    deltas = rng.normal(0, 1, (3, len(ours), 4)).astype(np.float32)
    few = as_batch(random_images(rng, *3 * [size]), objects).instances
    given = jax.tree.map(jnp.asarray, Instances(few.boxes, few.labels, few.valid))

    def total(outputs):
        found = jax.vmap(head.targets, in_axes=(0, None, 0, None))(
            outputs, jnp.asarray(ours), given, jnp.array(size, jnp.int32)
        )
        terms = head.losses(outputs, found, jnp.asarray(ours))
        return terms["class"] + terms["box"], (terms, found.column)

    outputs = SSDOutputs(jnp.asarray(logits), jnp.asarray(deltas))
    gradients, (terms, column) = jax.jit(jax.grad(total, has_aux=True))(outputs)
    matched = [
        pair.torch.proposal_matcher(torchvision.ops.box_iou(torch.from_numpy(image.boxes), theirs))
        if len(image.labels)
        else torch.full((len(ours),), -1)
        for image in objects
    ]
    of_torch = {
        "cls_logits": torch.tensor(logits, requires_grad=True),
        "bbox_regression": torch.tensor(deltas, requires_grad=True),
    }
    # Which of equal values comes first is open in torch's plain sort, and depends on the machine.
    with mock.patch.object(torch.Tensor, "sort", lambda x, dim, **order: torch.sort(x, dim=dim, stable=True, **order)):
        losses = pair.torch.compute_loss(as_targets(objects), of_torch, [theirs] * 3, matched)
    sum(losses.values()).backward()
    for i, indices in enumerate(matched):
        labels = np.append(objects[i].labels, -1)[indices.numpy().clip(-1)]
        np.testing.assert_array_equal(column[i], labels + 1)
    np.testing.assert_allclose(terms["class"], losses["classification"].item(), rtol=1e-5)
    np.testing.assert_allclose(terms["box"], losses["bbox_regression"].item(), rtol=1e-5)
    chosen, expected = gradients.logits, of_torch["cls_logits"].grad.numpy()
    np.testing.assert_array_equal(np.any(chosen, axis=2), np.any(expected, axis=2))
    np.testing.assert_allclose(chosen, expected, atol=1e-7)
    np.testing.assert_allclose(gradients.deltas, of_torch["bbox_regression"].grad, atol=1e-6)


def test_detections(predictions):
    for found, expected in zip(*predictions):
        assert len(found["scores"]) >= 30
        check_boxes(found, expected)


def test_losses(steps):
    check_losses(*steps, least=0.1)


def test_gradients(pair, steps):
    found, expected = (step.gradients for step in steps)
    errors = relative_errors(found, expected)
    shifts = [path for path in errors if re.search(r"block\d+'\]\['project_norm'\]\['norm'\]\['bias'", path)]
    assert len(shifts) == (15 if pair.name.startswith("ssdlite") else 0)
    for path in shifts:
        # What follows is a 1x1 convolution and a norm, which takes off any shift: the gradients are 0 but for rounding.
        del errors[path]
    for i in range(len(shifts)):
        both = (step["backbone"]["trunk"][f"block{i}"]["project_norm"]["norm"]["bias"] for step in (found, expected))
        assert max(float(np.abs(values).max()) for values in both) < 1e-5
    # As in test_detectors.py: rectifiers, and statistics of the batch, here of three values on the coarsest map.
    # torchvision's own gradients of SSDLite in float32 and float64 differ by up to 3.1e-2, in the median by 1.4e-2.
    largest, median = (4e-2, 1.5e-2) if "batch_stats" in pair.variables else (1e-2, 2e-3)
    for path, error in errors.items():
        assert error < largest, path
    assert np.median(list(errors.values())) < median


def test_running_statistics(pair, steps):
    check_statistics(pair, *steps)
