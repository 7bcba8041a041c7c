"""FCN on VGG-16 against loops, its alignment, and each net's start from a coarser one and from a classifier."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.segmenters import FCNVGG16
from segjax.models.fcn import fcn_vgg16
from segjax.models.heads.pixel import SkipHead
from segjax.models.layers.upconv import bilinear_init
from segjax.pretrained import merge
from segjax.types import Batch, Instances

CLASSES = 3
SMALL = FCNVGG16(width=2, hidden=(5, 4), dropout=0.0)


def batch(height=64, width=64):
    images = np.random.default_rng(0).integers(0, 256, (1, height, width, 3)).astype(np.uint8)
    none = Instances(np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.int32), np.zeros((1, 1), bool))
    labels = np.arange(height * width).reshape(1, height, width) // 7 % CLASSES
    sizes = np.array([[height, width]], np.int32)
    made = Batch(images, sizes, none, np.zeros(1, np.int32), label_map=labels.astype(np.uint8))
    return jax.tree.map(jnp.asarray, made)


def random_like(variables):
    """Random numbers for all variables of these shapes but the kernels that upsample."""
    rng = np.random.default_rng(1)

    def draw(path, x):
        if "upsample" in jax.tree_util.keystr(path):
            return bilinear_init(None, x.shape)
        scale = np.sqrt(2 / max(np.prod(x.shape[:-1]), 1)) if x.ndim == 4 else 0.1
        return jnp.asarray(scale * rng.normal(size=x.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, variables)


def pooled(x):
    return x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max((1, 3))


def convolved(x, layer):
    """A same convolution of [h w c], one output position at a time."""
    kernel, bias = np.asarray(layer["kernel"]), np.asarray(layer["bias"])
    side = kernel.shape[0]
    padded = np.pad(x, [(side // 2, side // 2)] * 2 + [(0, 0)])
    places = np.ndindex(*x.shape[:2])
    y = [np.tensordot(padded[i : i + side, j : j + side], kernel, 3) + bias for i, j in places]
    return np.reshape(y, (*x.shape[:2], -1))


def upsampled(x, kernel):
    """Every cell adds its stamp, two cells further on than the cell before; a cell is cut off all around."""
    y = np.zeros((2 * x.shape[0] + 2, 2 * x.shape[1] + 2, kernel.shape[3]))
    for i, j in np.ndindex(*x.shape[:2]):
        y[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.tensordot(kernel, x[i, j], ((2,), (0,)))
    return y[1:-1, 1:-1]


def test_the_head_of_fcn_8s_by_loops(rng):
    maps = [jnp.asarray(rng.normal(size=(1, 4 * 2**i, 4 * 2**i, 6 - i)), jnp.float32) for i in (2, 1, 0)]
    head = SkipHead(CLASSES, hidden=(5, 4), skip_scales=(0.5, 0.1))
    variables = random_like(jax.eval_shape(head.init, jax.random.key(0), maps))
    params = variables["params"]
    third, fourth, x = (pooled(np.asarray(m[0])) for m in maps)
    for name in ("fc6", "fc7"):
        x = np.maximum(convolved(x, params[name]), 0)
    x = convolved(x, params["score"])
    for name, finer in (("pool4", 0.5 * fourth), ("pool3", 0.1 * third)):
        kernel = np.asarray(params[f"upsample_to_{name}"]["kernel"])
        x = upsampled(x, kernel) + convolved(finer, params[f"score_{name}"])
    found = head.apply(variables, maps)
    assert found.shape == (1, 8, 8, CLASSES) and x.std() > 0.1
    np.testing.assert_allclose(found[0], x, atol=1e-5)


def test_scores_begin_with_zeros_and_upsampling_as_interpolation():
    maps = [jnp.ones((1, 4 * 2**i, 4 * 2**i, 2)) for i in (2, 1, 0)]
    variables = SkipHead(CLASSES, hidden=(4,), learn_last=True).init(jax.random.key(0), maps)
    params = variables["params"]
    assert {name for name, layer in params.items() if not np.any(layer["kernel"])} == {
        "score",
        "score_pool4",
        "score_pool3",
    }
    assert params["upsample_last"]["kernel"].shape == (16, 16, CLASSES, CLASSES)
    # With equal scores everywhere, interpolation changes nothing away from the border.
    params["score"]["bias"] = jnp.array([1.0, -2.0, 3.0])
    head = SkipHead(CLASSES, hidden=(4,), learn_last=True)
    found = head.apply(variables, maps)
    assert found.shape == (1, 64, 64, CLASSES)
    np.testing.assert_allclose(found[0, 31:33, 31:33], np.tile([1.0, -2, 3], (2, 2, 1)), rtol=1e-6)


@pytest.mark.parametrize("stride", [32, 8])
def test_nothing_is_shifted(stride):
    """A mirrored net gives mirrored logits of a mirrored image: half a pixel of shift would show."""
    network, data = dataclasses.replace(SMALL, stride=stride).build(CLASSES), batch()
    variables = random_like(jax.eval_shape(network.init, jax.random.key(0), data))
    mirrored = jax.tree.map(lambda x: x[:, ::-1] if x.ndim == 4 else x, variables)
    predict = jax.jit(network.predict)
    found = predict(variables, data.images, data.sizes).logits
    again = predict(mirrored, data.images[:, :, ::-1], data.sizes).logits[:, :, ::-1]
    assert found.shape == (1, 64, 64, CLASSES) and found.std() > 1e-3
    np.testing.assert_allclose(found, again, atol=1e-5 * float(jnp.abs(found).max()))


@functools.cache
def shapes(stride, **options):
    return jax.eval_shape(fcn_vgg16(CLASSES, stride=stride, width=2, hidden=(5, 4), **options).init, KEY, batch())


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("finer", "more"),
    [(16, {"score_pool4", "upsample_to_pool4"}), (8, {"score_pool3", "upsample_to_pool3"})],
)
def test_a_finer_net_starts_from_a_coarser_one(finer, more):
    coarse = jax.tree.map(lambda x: np.full(x.shape, 7.0), shapes(2 * finer))
    fine = jax.tree.map(lambda x: np.zeros(x.shape), shapes(finer))
    started, unused = merge(fine, coarse)
    assert not unused
    own = {name for name, layer in started["params"]["classifier"].items() if not np.any(layer["kernel"])}
    assert own == more and all(np.all(x == 7) for x in jax.tree.leaves(started["params"]["backbone"]))


def test_the_last_upsampling_is_each_nets_own():
    _, unused = merge(*(jax.tree.map(lambda x: np.zeros(x.shape), shapes(s, learn_last=True)) for s in (16, 32)))
    assert list(unused) == ["params/classifier/upsample_last/kernel"]


def test_images_of_any_size(key):
    network = SMALL.build(CLASSES)
    data = batch(45, 70)
    variables = jax.eval_shape(network.init, key, data)
    predict = lambda v: network.predict(v, data.images, data.sizes).logits  # noqa: E731
    assert jax.eval_shape(predict, variables).shape == (1, 45, 70, CLASSES)
    assert set(jax.eval_shape(network.losses, variables, data, key)[0]) == {"cross_entropy"}


def test_zeros_are_no_dead_end(key):
    """The scores learn from the first step on, and from then on what is before them."""
    network, data = dataclasses.replace(SMALL, width=4, stride=32).build(CLASSES), batch(32, 32)
    variables = jax.jit(network.init)(key, data)

    @jax.jit
    def gradient(params):
        loss = lambda p: network.losses({"params": p}, data, key)[0]["cross_entropy"]  # noqa: E731
        return jax.value_and_grad(loss)(params)

    losses = []
    for _ in range(2):
        loss, found = gradient(variables["params"])
        variables = {"params": jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], found)}
        losses.append((float(loss), bool(np.any(found["backbone"]["conv1_1"]["kernel"]))))
    assert (
        losses[0] == (pytest.approx(np.log(CLASSES), rel=1e-4), False) and losses[1][0] < losses[0][0] and losses[1][1]
    )


def test_hidden_layers_of_a_classifier_become_convolutions(rng):
    """On a map of the classifier's own size, the middle cell is what the classifier computes."""
    dense = {name: rng.normal(size=shape).astype(np.float32) for name, shape in (("fc6", (49 * 8, 5)), ("fc7", (5, 4)))}
    box = {name: {"kernel": jnp.asarray(x), "bias": jnp.zeros(x.shape[1])} for name, x in dense.items()}
    weights = {"params": {"backbone": {"conv1_1": {"kernel": jnp.ones(1)}}, "box": box}}
    found = FCNVGG16().adapted(weights)["params"]
    assert set(found) == {"backbone", "classifier"} and found["backbone"] is weights["params"]["backbone"]
    assert found["classifier"]["fc7"]["kernel"].shape == (1, 1, 5, 4)
    x = rng.normal(size=(7, 7, 8)).astype(np.float32)
    layer = {"kernel": found["classifier"]["fc6"]["kernel"], "bias": 0}
    np.testing.assert_allclose(convolved(x, layer)[3, 3], x.reshape(-1) @ dense["fc6"], rtol=1e-4)
    other = {"params": {"backbone": {}}}
    assert FCNVGG16().adapted(other) is other


def test_classifier_weights_fill_the_net(key):
    """Shapes of what "vgg16" gives are those that the paper's net asks for."""
    network = FCNVGG16().build(21)
    needed = jax.eval_shape(network.init, key, batch())["params"]["classifier"]
    dense = {"fc6": (7 * 7 * 512, 4096), "fc7": (4096, 4096)}
    box = {name: {"kernel": jax.ShapeDtypeStruct(s, jnp.float32)} for name, s in dense.items()}
    found = jax.eval_shape(FCNVGG16().adapted, {"params": {"box": box}})["params"]["classifier"]
    assert {name: found[name]["kernel"].shape for name in dense} == {n: needed[n]["kernel"].shape for n in dense}


def test_strides_that_there_are_not():
    with pytest.raises(ValueError, match="stride is 4; FCN on VGG-16 has a stride of 32, 16 or 8"):
        fcn_vgg16(3, stride=4)
    with pytest.raises(ValueError, match="stride is 8 on 2 maps; 32, 16 and 8 take one, two and three"):
        SkipHead(3).init(KEY, [jnp.zeros((1, 4, 4, 2))] * 2)
