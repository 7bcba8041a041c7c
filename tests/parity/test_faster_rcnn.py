"""Faster R-CNN against torchvision's, the same weights and images in both: every stage, the losses, the gradients.

Tolerances are relative to the largest number of the array compared. Both sides compute in float32 and add thousands of
products in another order, which leaves 6e-7 after the first stage of the backbone and 3e-6 at the end of the network.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from segjax.models.faster_rcnn import FasterRCNN  # noqa: E402
from segjax.models.heads.box import BoxHead  # noqa: E402
from segjax.models.heads.rpn import RPNHead, propose  # noqa: E402
from segjax.models.layers.fpn import FPN  # noqa: E402
from segjax.models.layers.normalize import normalize  # noqa: E402
from segjax.models.layers.resnet import ResNet  # noqa: E402
from segjax.ops.anchors import pyramid_anchors  # noqa: E402
from segjax.pretrained.convert import apply_rules  # noqa: E402
from segjax.pretrained.rules import faster_rcnn_rules  # noqa: E402
from tests.parity.conftest import (  # noqa: E402
    BOX,
    CLASSES,
    EVERY_ANCHOR,
    RPN,
    as_batch,
    as_targets,
    as_torch,
    random_images,
    random_objects,
)

# Two images of different sizes in a batch, and one whose coarsest map has an odd stride (224 // 4 by 352 // 6).
SIZES = {"padded batch": [(192, 256), (160, 224)], "odd strides": [(224, 352)]}
TINY = 1e-6
LOSSES = {
    "rpn_objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "box": "loss_box_reg",
}


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


def jax_stages(model, variables, batch):
    """The same of ours; one program, in which the stages share their work with `predict`."""
    network = FasterRCNN(ResNet(50), FPN(), RPNHead(3), BoxHead(CLASSES))

    @jax.jit
    def run(variables, images, sizes):
        prepared = normalize(images, sizes)
        body = network.apply(variables, prepared, method=lambda n, x: n.backbone(x))
        pyramid = network.apply(variables, prepared, method="pyramid")
        outputs = network.apply(variables, pyramid, method="region_proposals")
        shapes = [x.shape[1:3] for x in pyramid]
        strides = [(images.shape[1] // h, images.shape[2] // w) for h, w in shapes]
        anchors = pyramid_anchors(shapes, strides=strides, sizes=RPN.anchor_sizes, ratios=RPN.ratios)
        return {
            "images": prepared,
            "body": body,
            "pyramid": pyramid,
            "logits": outputs.logits,
            "deltas": outputs.deltas,
            "anchors": jnp.concatenate(anchors),
            "proposals": propose(outputs, anchors, sizes, RPN, train=False),
            "detections": model.predict(variables, images, sizes),
        }

    return jax.device_get(run(variables, jnp.asarray(batch.images), jnp.asarray(batch.sizes)))


@pytest.fixture(scope="module", params=SIZES, ids=lambda name: name.replace(" ", "-"))
def stages(pair, request):
    """(ours, theirs) by stage."""
    images = random_images(np.random.default_rng(1), *SIZES[request.param])
    return jax_stages(pair.model, pair.variables, as_batch(images)), torch_stages(pair.torch, images)


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


def test_proposals_agree(stages):
    ours, theirs = stages
    for boxes, valid, expected in zip(*ours["proposals"], theirs["proposals"]):
        assert valid.sum() == len(expected) == RPN.proposals[1]
        partner = np.abs(boxes[valid][:, None] - expected[None]).max(-1).argmin(1)
        # In the order of their scores, but for pairs whose logits are equal within noise.
        assert sorted(partner) == list(range(len(expected))) and np.abs(partner - np.arange(len(partner))).max() <= 1
        # Pixels; the boxes are up to 350 wide.
        np.testing.assert_allclose(boxes[valid], expected[partner], atol=2e-3)


def test_detections_agree(stages):
    ours, theirs = stages
    for i, expected in enumerate(theirs["detections"]):
        valid = ours["detections"].valid[i]
        boxes, scores, labels = (getattr(ours["detections"], k)[i][valid] for k in ("boxes", "scores", "labels"))
        assert valid.sum() == len(expected["scores"]) >= 40 and len(set(labels)) >= 5
        assert scores.max() < 0.999 and scores.max() - scores.min() > 0.3, "scores must spread"
        other_class = labels[:, None] != expected["labels"][None] - 1
        distance = np.abs(boxes[:, None] - expected["boxes"][None]).max(-1)
        partner = np.where(other_class, np.inf, distance).argmin(1)
        assert sorted(partner) == list(range(len(partner)))
        np.testing.assert_allclose(boxes, expected["boxes"][partner], atol=5e-3)
        np.testing.assert_allclose(scores, expected["scores"][partner], atol=1e-4)
        # Best first on both sides: with scores that agree, the orders can differ only between ties.
        assert (np.diff(scores) <= 0).all()
        assert not ours["detections"].scores[i][~valid].any()


def torch_losses(detector, images, objects):
    """The four losses under our names and the gradients of the sum of their logarithms, norms as constants.

    Logarithms, because `rpn_box` is a thousandth of `class` here and would not be seen in a plain sum.
    """
    detector.train()
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    detector.zero_grad()
    losses = detector(as_torch(images), as_targets(objects))
    sum(torch.log(loss + TINY) for loss in losses.values()).backward()
    detector.eval()
    gradients = {name: p.grad.clone() for name, p in detector.named_parameters()}
    return {ours: losses[theirs].item() for ours, theirs in LOSSES.items()}, gradients


@pytest.fixture(scope="module")
def losses_and_gradients(pair):
    """A compiled function (variables, batch) -> (losses, gradients of the parameters)."""

    def total(params, variables, batch):
        losses, _ = pair.model.losses({**variables, "params": params}, batch, jax.random.key(0))
        return sum(jnp.log(loss + TINY) for loss in losses.values()), losses

    step = jax.jit(jax.grad(total, has_aux=True))
    return lambda variables, batch: step(variables["params"], variables, batch)[::-1]


@pytest.mark.parametrize("counts", [(6, 4), (5, 0), (0, 0)], ids=["objects", "one-image-without", "none"])
def test_losses_and_gradients_agree(pair, losses_and_gradients, counts):
    sizes = SIZES["padded batch"]
    rng = np.random.default_rng(2)
    images = random_images(rng, *sizes)
    objects = [random_objects(rng, size, count) for size, count in zip(sizes, counts)]
    expected, expected_gradients = torch_losses(pair.torch, images, objects)
    losses, gradients = losses_and_gradients(pair.variables, jax.tree.map(jnp.asarray, as_batch(images, objects)))

    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert value > 1e-4 or (name.endswith("box") and sum(counts) == 0)
        np.testing.assert_allclose(losses[name], value, rtol=1e-5, err_msg=name)

    converted = apply_rules(faster_rcnn_rules(), expected_gradients, name="the gradients")["params"]
    errors = jax.tree.map(gradient_error, gradients, converted)
    flat = {jax.tree_util.keystr(path): error for path, error in jax.tree_util.tree_leaves_with_path(errors)}
    assert len(flat) == 83
    for path, error in flat.items():
        # Through the backbone's rectifiers noise is amplified: where an input is zero within 1e-6, one side passes the
        # gradient on and the other does not, and one such unit in a million makes a thousandth of the norm.
        assert error < (1e-2 if "backbone" in path else 5e-5), path


def gradient_error(ours, theirs) -> float:
    """Norm of the difference over the norm; zero where both vanish, as a box head's do without objects."""
    assert ours.shape == theirs.shape
    scale = np.linalg.norm(theirs)
    return float(np.linalg.norm(ours - theirs) / scale) if scale else float(np.abs(ours).max())


def test_everything_was_sampled(pair):
    """The losses are compared without chance: there is room for every anchor and every proposal in the samples."""
    anchors = sum(3 * -(-192 // s) * -(-256 // s) for s in (4, 8, 16, 32, 64))
    assert anchors <= EVERY_ANCHOR and BOX.samples >= RPN.proposals[0] + 8
