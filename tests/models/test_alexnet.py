"""AlexNet: shapes, strides, and the number of parameters that torchvision gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import pretrained
from segjax.models.layers.alexnet import AlexNet, AlexNetClassifier
from tests.pretrained.test_convert import layer, zeros


def image(height, width):
    return jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)


def traced(network, key, x):
    return jax.eval_shape(network.init_with_output, key, x)


def size(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_parameters(key):
    maps, backbone = traced(AlexNet(), key, image(224, 224))
    assert [x.shape for x in maps] == [(2, 6, 6, 256)] and AlexNet().strides == (32,)
    logits, classifier = traced(AlexNetClassifier(1000), key, maps)
    assert logits.shape == (2, 1000)
    # In the table of AlexNet_Weights.
    assert size(backbone) + size(classifier) == 61_100_840


def test_without_the_last_pooling(key):
    network = AlexNet(pool=False)
    (last,), _ = traced(network, key, image(224, 320))
    assert network.strides == (16,) and last.shape == (2, 13, 19, 256)


def test_norms_and_width(key):
    network = AlexNet("group", 0.25)
    (last,), variables = traced(network, key, image(128, 160))
    assert last.shape == (2, 3, 4, 64)
    assert set(variables["params"]) == {f"{kind}{i}" for kind in ("conv", "norm") for i in range(1, 6)}
    assert set(variables["params"]["conv1"]) == {"kernel"}


@pytest.mark.parametrize("sides", [(63, 63), (128, 160), (500, 375)])
def test_the_classifier_takes_maps_of_any_size(sides, key):
    maps, _ = traced(AlexNet(width=0.125), key, image(*sides))
    features, variables = traced(AlexNetClassifier(hidden=(7, 5)), key, maps)
    assert features.shape == (2, 5)
    assert variables["params"]["fc6"]["kernel"].shape == (6 * 6 * 32, 7)


def test_dropout_is_before_each_hidden_layer_and_in_training_alone(key, rng):
    x = [jnp.asarray(rng.normal(size=(1, 6, 6, 4)), jnp.float32)]
    network = AlexNetClassifier(3, (8, 8), dropout=1.0)
    variables = network.init(key, x)
    names = ("fc6", "fc7", "logits")
    for i, name in enumerate(names):
        variables["params"][name]["bias"] = jnp.full_like(variables["params"][name]["bias"], i + 1.0)
    trained = network.apply(variables, x, train=True, rngs={"dropout": key})
    # All inputs of both hidden layers are dropped, so the second gives its bias; the logits see that undropped.
    kernel = variables["params"]["logits"]["kernel"]
    np.testing.assert_allclose(trained[0], 2 * kernel.sum(0) + 3, rtol=1e-5)
    assert not np.allclose(network.apply(variables, x), trained)


@pytest.mark.parametrize(
    ("network", "sides", "message"),
    [
        (AlexNet(), (62, 100), "62x100 pixels are too small for AlexNet, which takes 63"),
        (AlexNet(pool=False), (100, 30), "100x30 pixels are too small for AlexNet, which takes 31"),
        (AlexNet(width=0.001), (64, 64), "width 0.001 has no channel in its layer 1"),
    ],
)
def test_what_cannot_be(network, sides, message, key):
    with pytest.raises(ValueError, match=message):
        traced(network, key, image(*sides))


def test_the_classifier_takes_one_map(key):
    with pytest.raises(ValueError, match="sees one map, and the backbone gives 2"):
        traced(AlexNetClassifier(), key, [jnp.zeros((1, 6, 6, 4))] * 2)


def test_weights_of_torchvision(rng):
    shapes = {}
    for index, out, c, kernel in (
        (0, 64, 3, 11),
        (3, 192, 64, 5),
        (6, 384, 192, 3),
        (8, 256, 384, 3),
        (10, 256, 256, 3),
    ):
        shapes |= layer(f"features.{index}", out, c, kernel, kernel)
    state = zeros(shapes | {"classifier.1.bias": (5,)} | layer("classifier.4", 4, 5) | layer("classifier.6", 3, 4))
    # Narrow, so that it is quick: their shapes are their own.
    state["classifier.1.weight"] = rng.normal(size=(5, 7 * 36)).astype(np.float32)
    loaded = pretrained.from_torchvision("alexnet", state)["params"]
    expected = jax.eval_shape(AlexNet().init, jax.random.key(0), image(64, 64))["params"]
    assert jax.tree.map(jnp.shape, loaded["backbone"]) == jax.tree.map(lambda x: x.shape, expected)
    fc6 = loaded["classifier"]["fc6"]["kernel"]
    # Rows of ours are (row, column, channel), torch's columns (channel, row, column).
    assert fc6[(2 * 6 + 5) * 7 + 4, 3] == state["classifier.1.weight"][3, 4 * 36 + 2 * 6 + 5]
    assert loaded["classifier"]["logits"]["kernel"].shape == (4, 3)
    with pytest.raises(ValueError, match="lacks the weights of params/backbone/conv5/kernel"):
        pretrained.from_torchvision("alexnet", {k: v for k, v in state.items() if k != "features.10.weight"})
    with pytest.raises(ValueError, match="lacks the weights of params/classifier/fc7/bias, which alexnet needs"):
        pretrained.from_torchvision("alexnet", {k: v for k, v in state.items() if k != "classifier.4.bias"})
