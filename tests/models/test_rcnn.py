"""R-CNN and SPP-net: regions in chunks are regions at once; they learn; what is made afterwards decides."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import CONFIGS
from configs.rcnn import RCNN, SPPNet
from segjax.models.heads.box import BoxSettings
from segjax.models.heads.roi import PoolSettings, SamplingSettings
from segjax.models.rcnn import rcnn
from segjax.models.sppnet import sppnet
from segjax.pretrained import merge
from segjax.types import Proposals
from tests import tiny

SHARED = {
    "width": 1 / 16,
    "stage": 3,
    "norm": "group",
    "hidden": (24,),
    "dropout": 0.0,
    "sampling": SamplingSettings(samples=10, positive_fraction=0.5),
    "box": BoxSettings(nms_threshold=0.3, detections=6, weights=(1.0, 1.0, 1.0, 1.0)),
    "says": "softmax",
}
WARP = PoolSettings(kind="warp", size=16, context=1)
TINY = {
    "rcnn": RCNN(pool=WARP, **SHARED),
    "sppnet": SPPNet(pool=PoolSettings(kind="pyramid", levels=(1, 3)), **SHARED),
}


def proposed(boxes) -> Proposals:
    boxes = np.asarray(boxes, np.float32)
    return Proposals(boxes, np.zeros(boxes.shape[:2], np.float32), np.ones(boxes.shape[:2], bool))


BATCH = tiny.batch_of(tiny.TWO)
SHIFTS = np.array([[0, 0, 0, 0], [2, 1, -1, 2], [-3, 0, 2, -2]], np.float32)
NEAR = np.concatenate([BATCH.instances.boxes[:, None, 0] + SHIFTS, BATCH.instances.boxes[:, None, 1] + SHIFTS], axis=1)
FAR = np.tile(np.array([[0, 40, 20, 64], [30, 0, 64, 18], [0, 0, 64, 64], [40, 44, 60, 60]], np.float32), (2, 1, 1))
BATCH = jax.tree.map(jnp.asarray, BATCH.replace(proposals=proposed(np.concatenate([NEAR, FAR], axis=1))))


@pytest.fixture(scope="module", params=TINY)
def learnt(request):
    """(settings, variables, losses at the start and at the end) after some steps on one batch."""
    settings = TINY[request.param]
    return settings, *tiny.overfit(settings.build(3), BATCH, steps=150)


def predicted(settings, variables):
    predict = jax.jit(settings.build(3).predict)
    return jax.device_get(predict(variables, BATCH.images, BATCH.sizes, BATCH.proposals))


def test_it_overfits_one_batch(learnt):
    settings, variables, first, last = learnt
    assert set(first) == {"class"} and last["class"] < 0.3 * first["class"]
    found, truth = predicted(settings, variables), jax.device_get(BATCH.instances)
    for i, j in zip(*np.nonzero(truth.valid)):
        right = found.valid[i] & (found.labels[i] == truth.labels[i, j]) & (found.scores[i] > 0.5)
        assert (np.abs(found.boxes[i] - truth.boxes[i, j]).max(-1)[right] < 5).any()


def test_svms_and_regression_decide_once_they_are_there(learnt):
    """An SVM that fires on everything of class 1, and a regression that makes every box twice as wide."""
    settings, variables, *_ = learnt
    settings = dataclasses.replace(settings, says="svm")
    after = jax.jit(settings.build(3).init)(jax.random.key(5), BATCH)
    merged, unused = merge(after, variables)
    assert not unused
    box = dict(merged["params"]["box"])
    assert not any(x.any() for x in jax.tree.leaves((box["svm"], box["ridge"])))
    box["svm"] = {**box["svm"], "bias": jnp.array([-1e6, 2.0, -1e6])}
    box["ridge"] = {**box["ridge"], "bias": jnp.tile(jnp.array([0, 0, jnp.log(2.0), 0]), 3)}
    found = predicted(settings, {**merged, "params": {**merged["params"], "box": box}})
    assert found.valid.any(axis=1).all() and (found.labels[found.valid] == 1).all()
    np.testing.assert_allclose(found.scores[found.valid], 1 / (1 + np.exp(-2)), rtol=1e-5)
    proposals = np.asarray(BATCH.proposals.boxes)
    for i in range(2):
        middle, half = (proposals[i, :, ::2].sum(-1) / 2), proposals[i, :, 2] - proposals[i, :, 0]
        wide = np.stack([middle - half, proposals[i, :, 1], middle + half, proposals[i, :, 3]], axis=-1).clip(0, 64)
        for box in found.boxes[i][found.valid[i]]:
            assert np.abs(wide - box).max(-1).min() < 1e-3


def test_features_are_of_the_proposals_in_order(learnt):
    settings, variables, *_ = learnt
    found = predicted(dataclasses.replace(settings, says="features"), variables)
    np.testing.assert_array_equal(found.boxes, BATCH.proposals.boxes)
    box = jax.device_get(variables["params"]["box"])
    logits = found.extra["hidden"] @ box["class"]["kernel"] + box["class"]["bias"]
    hidden = np.maximum(found.extra["pooled"] @ box["fc6"]["kernel"] + box["fc6"]["bias"], 0)
    np.testing.assert_allclose(found.extra["hidden"], hidden, atol=1e-4)
    columns = logits.argmax(-1)
    # The first three regions of each image are around its first object.
    np.testing.assert_array_equal(columns[:, 0], np.asarray(BATCH.instances.labels[:, 0]) + 1)


def test_chunks_change_nothing(key):
    """Losses, gradients and features of regions four at a time, the last chunk not full, are those of all at once."""
    whole = TINY["rcnn"]
    parts = dataclasses.replace(whole, pool=whole.pool._replace(chunk=4))
    variables = jax.jit(whole.build(3).init)(key, BATCH)

    def total(settings):
        def of(params):
            return settings.build(3).losses({**variables, "params": params}, BATCH, key)[0]["class"]

        return jax.jit(jax.value_and_grad(of))(variables["params"])

    chex.assert_trees_all_close(total(parts), total(whole), atol=1e-5)
    features = [predicted(dataclasses.replace(s, says="features"), variables) for s in (parts, whole)]
    chex.assert_trees_all_close(*features, atol=1e-5)


@pytest.mark.parametrize("make, kind, message", [
    (rcnn, "pool", "pool.kind is 'pool'; R-CNN warps pixels, which is 'warp'"),
    (sppnet, "align", "pool.kind is 'align'; SPP-net pools over several grids, which is 'pyramid'"),
])  # fmt: skip
def test_another_pooling_is_refused(make, kind, message):
    with pytest.raises(ValueError, match=message):
        make(3, pool=PoolSettings(kind=kind))
    with pytest.raises(ValueError, match="classes is 0; a detector needs at least one"):
        make(0)


@pytest.mark.parametrize("name", ["rcnn_voc", "sppnet_voc"])
@pytest.mark.parametrize("network, classifier", [("vgg16", "box"), ("alexnet", "classifier")])
def test_a_classifiers_weights_have_a_place(name, network, classifier, key):
    """Torchvision's come as a backbone and as hidden layers, VGG16's of the box head, AlexNet's of a classifier."""
    settings = dataclasses.replace(CONFIGS[name].model, network=network)
    batch = tiny.batch_of([([], [])], side=128)
    params = jax.eval_shape(settings.build(20).init, key, batch)["params"]
    own = params["box"]["backbone"] if name == "rcnn_voc" else params["backbone"]
    hidden = {layer: params["box"][layer] for layer in ("fc6", "fc7")}
    extra = {"logits": hidden["fc7"]} if network == "alexnet" else {}
    moved = settings.adapted({"params": {"backbone": own, classifier: {**hidden, **extra}}})["params"]
    assert moved["box"]["fc6"] == hidden["fc6"] and "logits" not in moved["box"]
    assert (moved["box"] if name == "rcnn_voc" else moved)["backbone"] == own
    assert set(moved) == set(params)
