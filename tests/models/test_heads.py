"""Heads on regions: the door as a user's own head sees it, and what mask and keypoint heads promise."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from segjax.losses import masked_sum, safe_divide
from segjax.models.fast_rcnn import fast_rcnn
from segjax.models.faster_rcnn import faster_rcnn
from segjax.models.heads.box import BoxHead, BoxNetwork
from segjax.models.heads.roi import PoolSettings, RoIHead, SamplingSettings, pool_rois, sample_rois
from segjax.models.layers.fpn import FPN, NoNeck
from segjax.models.layers.resnet import ResNet
from segjax.models.layers.upconv import UpConv
from segjax.models.layers.vgg import VGG16
from segjax.models.rpn import region_proposal_network
from segjax.ops.masks import unpack
from segjax.types import Proposals
from tests import tiny

BATCH = jax.tree.map(jnp.asarray, tiny.with_everything(tiny.batch_of(tiny.TWO)))


class Linear(nn.Module):
    """One number of each region."""

    @nn.compact
    def __call__(self, features, *, valid, train=False):
        return nn.Dense(1, name="out")(features.reshape(*valid.shape, -1))[..., 0]


@dataclasses.dataclass(frozen=True)
class WidthHead:
    """A head of a user's own: how wide the object is, in sixteenths of a pixel."""

    network: nn.Module = Linear()  # noqa: RUF009
    pool: PoolSettings = PoolSettings(size=3)
    positives_only: bool = True

    def targets(self, rois, instances, size):
        return instances.extra["width"][rois.target] / 16

    def losses(self, outputs, targets, rois):
        error = masked_sum((outputs - targets) ** 2, rois.positive)
        return {"width": safe_divide(error, jnp.sum(rois.positive, dtype=jnp.float32))}

    def decode(self, outputs, detections, size):
        return detections.replace(extra={**detections.extra, "width": 16 * outputs})


def model_with(heads, **options):
    c = tiny.MODEL
    trunk = {"backbone": ResNet(18, "group", 8), "neck": FPN(16), "sampling": c.sampling}
    box = BoxHead(BoxNetwork(3, (16,)), c.box, c.pool)
    return faster_rcnn(3, heads={"box": box, **heads}, rpn=c.rpn, **trunk, **options)


def test_a_head_of_ones_own_is_an_equal(key):
    assert isinstance(WidthHead(), RoIHead)
    model = model_with({"width": WidthHead()})
    variables = jax.jit(model.init)(key, BATCH)
    assert variables["params"]["width"]["out"]["kernel"].shape == (3 * 3 * 16, 1)

    def total(params):
        return model.losses({**variables, "params": params}, BATCH, key)[0]

    losses = jax.jit(total)(variables["params"])
    assert set(losses) == {"rpn_objectness", "rpn_box", "class", "box", "width"}
    grads = jax.jit(jax.grad(lambda params: total(params)["width"]))(variables["params"])
    chex.assert_tree_all_finite(grads)
    # Its gradient reaches its own network and the backbone, and no other head.
    norms = {name: float(sum(jnp.abs(x).sum() for x in jax.tree.leaves(part))) for name, part in grads.items()}
    assert norms["width"] > 0 and norms["backbone"] > 0 and norms["box"] == norms["rpn"] == 0
    found = jax.jit(model.predict)(variables, BATCH.images, BATCH.sizes)
    assert found.extra["width"].shape == found.scores.shape and found.masks is None


def test_names_must_not_collide(key):
    with pytest.raises(ValueError, match="a head is called 'neck', as another part of the network is; rename it"):
        model_with({"neck": WidthHead()})
    model = model_with({"one": WidthHead(), "two": WidthHead()})
    variables = jax.eval_shape(model.init, key, BATCH)
    with pytest.raises(ValueError, match="two heads have a loss called 'width'; give it another name in 'two'"):
        jax.eval_shape(model.losses, variables, BATCH, key)


@pytest.mark.parametrize("config, lacking", [(tiny.MASK_MODEL, "masks"), (tiny.KEYPOINT_MODEL, "joints")])
def test_a_batch_without_what_is_learnt_is_refused(config, lacking, key):
    model, batch = config.build(3, tiny.JOINTS), tiny.batch_of(tiny.TWO)
    variables = jax.eval_shape(model.init, key, batch)
    with pytest.raises(ValueError, match=f"is trained on {lacking}, and the batch has none"):
        jax.eval_shape(model.losses, variables, batch, key)


@pytest.fixture(scope="module", params=["mask", "keypoint"])
def learnt(request):
    """(name, losses at the start, losses at the end, detections on the batch) of a model trained on one batch."""
    config = {"mask": tiny.MASK_MODEL, "keypoint": tiny.KEYPOINT_MODEL}[request.param]
    model = config.build(3, tiny.JOINTS)
    batch = jax.tree.map(jnp.asarray, BATCH)
    variables, first, last = tiny.overfit(model, batch, steps=300)
    return request.param, first, last, jax.device_get(jax.jit(model.predict)(variables, batch.images, batch.sizes))


def test_it_overfits_one_batch(learnt):
    name, first, last, found = learnt
    assert last[name] < 0.6 * first[name] and last["class"] < 0.5 * first["class"]
    truth = jax.device_get(BATCH.instances)
    for i, j in zip(*np.nonzero(truth.valid)):
        x1, y1, x2, y2 = truth.boxes[i, j]
        distance = np.abs(found.boxes[i] - truth.boxes[i, j]).max(-1) + 1e6 * ~found.valid[i]
        k = int(distance.argmin())
        assert distance[k] < 6
        if name == "mask":
            # Ellipses: the corners of the box are outside, the middle inside.
            mask = found.masks[i, k]
            assert mask.shape == (14, 14) and mask[5:9, 5:9].min() > 0.5 > mask[[0, 0, -1, -1], [0, -1, 0, -1]].max()
        else:
            at = found.keypoints[i, k]
            assert at.shape == (tiny.JOINTS, 3)
            assert np.abs(at[:, :2] - truth.keypoints[i, j, :, :2]).max() < 0.25 * max(x2 - x1, y2 - y1)


def test_padding_has_neither_mask_nor_joints(learnt):
    name, _, _, found = learnt
    field = found.masks if name == "mask" else found.keypoints
    assert not found.valid.all() and not field[~found.valid].any()
    chex.assert_tree_all_finite(field)


@pytest.mark.parametrize("config, name", [(tiny.MASK_MODEL, "mask"), (tiny.KEYPOINT_MODEL, "keypoint")])
def test_nothing_to_learn_is_a_loss_of_zero(config, name, key):
    """No object in one image, and none with a mask or a labelled joint in the other."""
    batch = jax.tree.map(jnp.asarray, tiny.with_everything(tiny.batch_of([tiny.TWO[0], ([], [])])))
    objects = batch.instances
    batch = batch.replace(
        instances=objects.replace(masks=jnp.zeros_like(objects.masks), keypoints=jnp.zeros_like(objects.keypoints))
    )
    model = config.build(3, tiny.JOINTS)
    variables = jax.jit(model.init)(key, batch)

    def total(params):
        terms = model.losses({**variables, "params": params}, batch, key)[0]
        return sum(terms.values()), terms

    grads, terms = jax.jit(jax.grad(total, has_aux=True))(variables["params"])
    assert float(terms[name]) == 0 and float(terms["class"]) > 0
    chex.assert_tree_all_finite(grads)
    assert not any(np.any(x) for x in jax.tree.leaves(grads[name]))


def test_the_mask_head_learns_the_mask_of_its_object(key):
    head = tiny.MASK_MODEL.heads(3, 0)["mask"]
    objects = jax.tree.map(lambda x: jnp.asarray(x[0]), BATCH.instances)
    rois = sample_rois(
        key[None], tiny.no_proposals(1), jax.tree.map(lambda x: x[None], objects), SamplingSettings(samples=4)
    )
    rois = jax.tree.map(lambda x: x[0], rois)
    masks, labels, learnt = head.targets(rois, objects, jnp.array([64, 64]))
    # The ground truth is what is sampled: of its boxes, the targets are the whole ellipses.
    assert int(rois.positive.sum()) == int(learnt.sum()) == 1
    index = int(rois.target[0])
    area = float(unpack(np.asarray(objects.masks), 64)[index].sum())
    side = np.diff(np.asarray(objects.boxes[index]).reshape(2, 2), axis=0).prod()
    assert float(masks[0].mean()) == pytest.approx(area / side, abs=0.02)
    assert int(labels[0]) == int(objects.labels[index])


def test_far_negatives_can_be_left_out(key):
    """Fast R-CNN takes its negatives from IoU 0.1 to 0.5; without any object every proposal is one."""
    boxes = jnp.array([[[0, 0, 10, 10], [0, 0, 10, 30], [40, 40, 50, 50]]], jnp.float32)
    proposals = Proposals(boxes, jnp.zeros((1, 3)), jnp.ones((1, 3), bool))
    objects = jax.tree.map(jnp.asarray, tiny.batch_of([([[0, 0, 10, 10]], [1])]).instances)
    paper = SamplingSettings(negatives=(0.1, 0.5), samples=8, positive_fraction=0.5)
    rois = sample_rois(key[None], proposals, objects, paper)
    kept = {tuple(box) for box in np.asarray(rois.boxes[0])[np.asarray(rois.valid[0])].tolist()}
    assert kept == {(0, 0, 10, 10), (0, 0, 10, 30)}
    assert int(rois.positive.sum()) == 2  # the proposal and the object itself
    empty = jax.tree.map(jnp.asarray, tiny.batch_of([([], [])]).instances)
    assert int(sample_rois(key[None], proposals, empty, paper).valid.sum()) == 3


def test_positives_only_sees_the_positive_slots(key):
    """`SamplingSettings.positives` is a bound: no positive region lies beyond it."""
    proposals = Proposals(
        jnp.tile(jnp.array([[[6.0, 8, 30, 32]]]), (2, 40, 1)), jnp.zeros((2, 40)), jnp.ones((2, 40), bool)
    )
    settings = SamplingSettings(samples=16, positive_fraction=0.3)
    rois = sample_rois(jax.random.split(key, 2), proposals, jax.tree.map(jnp.asarray, BATCH.instances), settings)
    assert settings.positives == 4
    assert np.asarray(rois.positive)[:, :4].any() and not np.asarray(rois.positive)[:, 4:].any()


def test_pooling_by_maxima_needs_one_map():
    features = [jnp.zeros((1, 8, 8, 2)), jnp.zeros((1, 4, 4, 2))]
    boxes, valid = jnp.zeros((1, 3, 4)), jnp.ones((1, 3), bool)
    settings = PoolSettings(kind="pool")
    with pytest.raises(ValueError, match="pool.kind is 'pool', which needs a single map, and there are 2"):
        pool_rois(features, boxes, valid, strides=(8, 16), settings=settings)
    features[0] = features[0].at[0, 0, 0].set(5.0)
    boxes, valid = boxes.at[0, 0].set(jnp.array([0, 0, 15, 15.0])), valid.at[0, 1:].set(False)
    pooled = pool_rois(features, boxes, valid, strides=(8,), settings=settings)
    assert pooled.shape == (1, 3, 7, 7, 2) and float(pooled[0, 0, 0, 0, 0]) == 5 and not np.asarray(pooled[0, 1:]).any()


@pytest.mark.parametrize("kernel, stride, padding", [(2, 2, 0), (4, 2, 1), (3, 2, 1), (3, 1, 0)])
def test_up_conv_adds_stamps(kernel, stride, padding, rng, key):
    """Against the definition: every input cell adds its stamp to the output."""
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 5)), jnp.float32)
    layer = UpConv(6, kernel, stride, padding)
    variables = layer.init(key, x)
    weight = np.asarray(variables["params"]["kernel"])
    full = np.zeros((2, 2 * stride + kernel, 3 * stride + kernel, 6), np.float32)
    for i, j in np.ndindex(3, 4):
        full[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel] += np.einsum(
            "bc,ijcd->bijd", x[:, i, j], weight
        )
    cut = slice(padding, -padding or None)
    np.testing.assert_allclose(layer.apply(variables, x), full[:, cut, cut], rtol=1e-4, atol=1e-5)


def test_fast_rcnn_takes_proposals_and_makes_none(key):
    model = fast_rcnn(
        3,
        backbone=VGG16(width=4),
        heads={"box": BoxHead(BoxNetwork(3, (8,), dropout=0.5), pool=PoolSettings(kind="pool"))},
        sampling=SamplingSettings(samples=8),
    )
    proposals = Proposals(BATCH.instances.boxes + 1, np.zeros((2, 4), np.float32), BATCH.instances.valid)
    batch = jax.tree.map(jnp.asarray, BATCH.replace(proposals=proposals))
    variables = jax.jit(model.init)(key, batch)
    losses, _ = jax.jit(model.losses)(variables, batch, key)
    assert set(losses) == {"class", "box"} and all(np.isfinite(x) and x > 0 for x in losses.values())
    again, _ = jax.jit(model.losses)(variables, batch, jax.random.fold_in(key, 1))
    assert losses["class"] != again["class"]  # dropout
    found = jax.jit(model.predict)(variables, batch.images, batch.sizes, **batch.given)
    assert found.valid.any() and not found.valid.all()
    with pytest.raises(ValueError, match="this model makes no proposals, and none are given"):
        model.predict(variables, batch.images, batch.sizes)
    with pytest.raises(ValueError, match="proposals are given to a model that makes its own"):
        tiny.MODEL.build(3).losses({}, batch, key)


def test_a_region_proposal_network_alone(key):
    c = tiny.MODEL
    model = region_proposal_network(backbone=c.backbone(), neck=c.neck(), rpn=c.rpn)
    variables = jax.jit(model.init)(key, BATCH)
    assert set(variables["params"]) == {"backbone", "neck", "rpn"}
    losses, _ = jax.jit(model.losses)(variables, BATCH, key)
    assert set(losses) == {"rpn_objectness", "rpn_box"}
    found = jax.jit(model.predict)(variables, BATCH.images, BATCH.sizes)
    assert found.valid.all() and not found.labels.any() and (np.diff(found.scores) <= 0).all()
    assert (found.scores > 0).all() and (found.scores < 1).all()


def test_the_same_key_samples_the_same_in_any_place_of_the_batch(key):
    """Regions are drawn by the key of the image, not by its place."""
    model = tiny.MODEL.build(3)
    variables = jax.jit(model.init)(key, BATCH)
    losses = jax.jit(lambda batch: model.losses(variables, batch, key)[0])
    swapped = jax.tree.map(lambda x: x[::-1], BATCH)
    chex.assert_trees_all_close(losses(BATCH), losses(swapped), rtol=1e-5)


def test_no_neck_passes_on(key):
    maps = [jnp.ones((1, 4, 4, 3))]
    (same,), _ = NoNeck().init_with_output(key, maps, train=True)
    np.testing.assert_array_equal(same, maps[0])


class Broken(WidthHead):
    """A head whose losses are wrong in one way or another."""

    def __init__(self, losses):
        super().__init__()
        object.__setattr__(self, "losses", losses)


@pytest.mark.parametrize("head, message", [
    (WidthHead, "head 'width' is the class WidthHead; give an instance of it"),
    (object(), "head 'width', a object, has no network and no pool and no positives_only and no targets and no losses"),
    (Broken(lambda *_: jnp.float32(1)), r"the losses of head 'width' are a .*; return a dict, \{name: scalar\}"),
    (Broken(lambda outputs, *_: {"x": outputs}), r"loss 'x' of head 'width' has the shape \(2, 4\); return a scalar"),
])  # fmt: skip
def test_what_is_no_head_is_refused_in_a_sentence(head, message, key):
    with pytest.raises(ValueError, match=message):
        model = model_with({"width": head})
        jax.eval_shape(model.losses, jax.eval_shape(model.init, key, BATCH), BATCH, key)


def test_an_attribute_that_is_not_read_is_named(key):
    model = model_with({"width": WidthHead()})
    batch = BATCH.replace(instances=BATCH.instances.replace(extra={}))
    variables = jax.eval_shape(model.init, key, batch)
    with pytest.raises(ValueError, match="head 'width' asks for 'width' of the objects, and the batch has no"):
        jax.eval_shape(model.losses, variables, batch, key)


def test_settings_are_taken_over_from_another_kind_of_model():
    assert tiny.MASK_MODEL.rpn == tiny.MODEL.rpn and tiny.MASK_MODEL.width == 8
    assert tiny.MASK_MODEL.of(tiny.MODEL, width=16).width == 16
    assert type(tiny.MODEL.of(tiny.MASK_MODEL)) is type(tiny.MODEL) and tiny.MODEL.of(tiny.MASK_MODEL) == tiny.MODEL


class Flat(nn.Module):
    """Forgets the axis of the images."""

    @nn.compact
    def __call__(self, features, *, valid, train=False):
        return nn.Dense(1)(features.reshape(valid.size, -1))


def test_rows_that_went_missing_are_named(key):
    """The network's are found out when training starts, those of `decode` when prediction is traced."""
    model = model_with({"width": WidthHead(network=Flat())})
    variables = jax.eval_shape(model.init, key, BATCH)
    message = r"the network of head 'width' gave an array of shape \(8, 1\); it must begin with \(2, 4\)"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.losses, variables, BATCH, key)

    class One(WidthHead):
        def decode(self, outputs, detections, size):
            return detections.replace(extra={"width": outputs.sum()})

    model = model_with({"width": One()})
    variables = jax.eval_shape(model.init, key, BATCH)
    message = r"`decode` of head 'width' gave an array\.extra\['width'\] of shape \(2,\); it must begin with \(2, 6\)"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.predict, variables, BATCH.images, BATCH.sizes)
