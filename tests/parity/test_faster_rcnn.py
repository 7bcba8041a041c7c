"""Faster R-CNN against torchvision's, the same weights and images in both: every stage, the losses, the gradients.

Tolerances are relative to the largest number of the array compared. Both sides compute in float32 and add thousands of
products in another order, which leaves 6e-7 after the first stage of the backbone and 3e-6 at the end of the network.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

pytest.importorskip("torchvision")

from segjax.models.heads.rpn import RPNHead, propose  # noqa: E402
from segjax.models.layers.fpn import FPN  # noqa: E402
from segjax.models.layers.normalize import normalize  # noqa: E402
from segjax.models.layers.resnet import ResNet  # noqa: E402
from segjax.models.parts import Parts  # noqa: E402
from segjax.ops.anchors import pyramid_anchors  # noqa: E402
from tests.parity.conftest import CAPACITY, as_batch, as_torch, random_images, random_objects  # noqa: E402
from tests.parity.detectors import (  # noqa: E402
    EVERY_ANCHOR,
    SAMPLING,
    images_of,
    jax_step,
    make_pair,
    partners,
    relative_errors,
    torch_step,
)

# Two images of different sizes in a batch, and one whose coarsest map has an odd stride (224 // 4 by 352 // 6).
SIZES = {"padded batch": [(192, 256), (160, 224)], "odd strides": [(224, 352)]}


@pytest.fixture(scope="module")
def pair():
    """The detector in torchvision and in segjax."""
    return make_pair("fasterrcnn_resnet50_fpn", detections=80)


def relative_error(ours, theirs) -> float:
    """Largest difference over the largest magnitude."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def channels_last(x):
    return x.detach().movedim(1, -1).numpy()


def torch_stages(detector, images):
    """What each stage of torchvision's detector gives, as NumPy arrays."""
    with torch.no_grad():
        batch, _ = detector.transform(as_torch(images))
        body = detector.backbone.body(batch.tensors)
        pyramid = detector.backbone.fpn(body)
        logits, deltas = detector.rpn.head(list(pyramid.values()))
        proposals, _ = detector.rpn(batch, pyramid)
        found, _ = detector.roi_heads(pyramid, proposals, batch.image_sizes)
        anchors = detector.rpn.anchor_generator(batch, list(pyramid.values()))[0]
    return {
        "images": channels_last(batch.tensors),
        "body": [channels_last(x) for x in body.values()],
        "pyramid": [channels_last(x) for x in pyramid.values()],
        "logits": [channels_last(x).reshape(len(images), -1) for x in logits],
        "deltas": [channels_last(x).reshape(len(images), -1, 4) for x in deltas],
        "anchors": anchors.numpy(),
        "proposals": [x.numpy() for x in proposals],
        "detections": [{k: v.numpy() for k, v in image.items()} for image in found],
    }


def jax_stages(pair, batch):
    """The same of ours; one program, in which the stages share their work with `predict`."""
    parts = Parts({"backbone": ResNet(50), "neck": FPN(), "rpn": RPNHead(3)})

    @jax.jit
    def run(variables, images, sizes):
        prepared = normalize(images, sizes)
        body = parts(variables, "backbone", prepared)
        pyramid = parts(variables, "neck", body)
        outputs = parts(variables, "rpn", pyramid)
        shapes = [x.shape[1:3] for x in pyramid]
        strides = [(images.shape[1] // h, images.shape[2] // w) for h, w in shapes]
        anchors = pyramid_anchors(shapes, strides=strides, sizes=pair.rpn.anchor_sizes, ratios=pair.rpn.ratios)
        return {
            "images": prepared,
            "body": body,
            "pyramid": pyramid,
            "logits": outputs.logits,
            "deltas": outputs.deltas,
            "anchors": jnp.concatenate(anchors),
            "proposals": propose(outputs, anchors, sizes, pair.rpn, train=False),
            "detections": pair.model.predict(variables, images, sizes),
        }

    return jax.device_get(run(pair.variables, jnp.asarray(batch.images), jnp.asarray(batch.sizes)))


@pytest.fixture(scope="module", params=SIZES, ids=lambda name: name.replace(" ", "-"))
def stages(pair, request):
    """(ours, theirs) by stage."""
    images = random_images(np.random.default_rng(1), *SIZES[request.param])
    return jax_stages(pair, as_batch(images)), torch_stages(pair.torch, images)


@pytest.mark.parametrize(
    ("stage", "tolerance"), [("images", 1e-6), ("body", 1e-5), ("pyramid", 1e-5), ("logits", 1e-5), ("deltas", 1e-5)]
)
def test_maps_agree(stages, stage, tolerance):
    ours, theirs = (side[stage] for side in stages)
    ours, theirs = ([side] if stage == "images" else side for side in (ours, theirs))
    assert len(ours) == len(theirs)
    for level, (a, b) in enumerate(zip(ours, theirs)):
        assert np.std(b) > 0.05, "constant maps show nothing"
        assert relative_error(a, b) < tolerance, level


def test_anchors_are_the_same(stages):
    ours, theirs = stages
    np.testing.assert_array_equal(ours["anchors"], theirs["anchors"])


def test_proposals_agree(pair, stages):
    ours, theirs = stages
    for boxes, valid, expected in zip(ours["proposals"].boxes, ours["proposals"].valid, theirs["proposals"]):
        assert valid.sum() == len(expected) == pair.rpn.proposals[1]
        partner = np.abs(boxes[valid][:, None] - expected[None]).max(-1).argmin(1)
        # In the order of their scores, but for pairs whose logits are equal within noise.
        assert sorted(partner) == list(range(len(expected))) and np.abs(partner - np.arange(len(partner))).max() <= 1
        # Pixels; the boxes are up to 350 wide.
        np.testing.assert_allclose(boxes[valid], expected[partner], atol=2e-3)


def test_detections_agree(stages):
    ours, theirs = stages
    assert not ours["detections"].scores[~ours["detections"].valid].any()
    for found, expected in zip(images_of(ours["detections"]), theirs["detections"]):
        scores = found["scores"]
        assert len(scores) == len(expected["scores"]) >= 40 and len(set(found["labels"])) >= 5
        assert scores.max() < 0.999 and scores.max() - scores.min() > 0.3, "scores must spread"
        partner = partners(found, expected)
        np.testing.assert_allclose(found["boxes"], expected["boxes"][partner], atol=5e-3)
        np.testing.assert_allclose(scores, expected["scores"][partner], atol=1e-4)
        # Best first on both sides: with scores that agree, the orders can differ only between ties.
        assert (np.diff(scores) <= 0).all()


@pytest.fixture(scope="module")
def step(pair):
    """A compiled function (variables, batch) -> `Step`."""
    return jax_step(pair)


@pytest.mark.parametrize("counts", [(6, 4), (5, 0), (0, 0)], ids=["objects", "one-image-without", "none"])
def test_losses_and_gradients_agree(pair, step, counts):
    sizes = SIZES["padded batch"]
    rng = np.random.default_rng(2)
    images = random_images(rng, *sizes)
    objects = [random_objects(rng, size, count) for size, count in zip(sizes, counts)]
    expected = torch_step(pair, images, objects)
    found = step(pair.variables, as_batch(images, objects))

    assert set(found.losses) == set(expected.losses)
    for name, value in expected.losses.items():
        assert value > 1e-4 or (name.endswith("box") and sum(counts) == 0)
        np.testing.assert_allclose(found.losses[name], value, rtol=1e-5, err_msg=name)

    errors = relative_errors(found.gradients, expected.gradients)
    assert len(errors) == 83
    for path, error in errors.items():
        # Through the backbone's rectifiers noise is amplified: where an input is zero within 1e-6, one side passes the
        # gradient on and the other does not, and one such unit in a million makes a thousandth of the norm.
        assert error < (1e-2 if "backbone" in path else 5e-5), path


def test_everything_was_sampled(pair):
    """The losses are compared without chance: there is room for every anchor and every proposal in the samples."""
    anchors = sum(3 * -(-192 // s) * -(-256 // s) for s in (4, 8, 16, 32, 64))
    assert anchors <= EVERY_ANCHOR and SAMPLING.samples >= pair.rpn.proposals[0] + CAPACITY
