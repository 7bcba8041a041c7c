"""Networks whose outputs are places in the image: in bfloat16 too, these are computed in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from segjax.models.detr import DETRNetwork
from segjax.models.heads.localizer import LocalizerNetwork
from segjax.models.layers.alexnet import AlexNetClassifier
from segjax.models.layers.transformer import Transformer
from segjax.models.slots import SlotNetwork

SIDE = 1333
"""Pixels, of which the numbers are shares."""


class Seen(nn.Module):
    """Features that are the same in any dtype: small integers."""

    @nn.compact
    def __call__(self, features, *, train=False):
        return features[0].mean((1, 2)).round().astype(jnp.bfloat16)


def dense(x, layer):
    return np.asarray(x, np.float64) @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rectified(x):
    return np.maximum(np.asarray(x, np.float64), 0)


def of_detr(params, seen):
    x = seen["transformer"]
    for name in ("box0", "box1"):
        x = rectified(dense(x, params[name]))
    return sigmoid(dense(x, params["box2"]))


BFLOAT16 = {"dtype": jnp.bfloat16}
CASES = {
    "detr": (
        DETRNetwork(3, Transformer(1, 1, heads=2, hidden=32, **BFLOAT16), queries=8, width=32, **BFLOAT16),
        lambda outputs: outputs.boxes,
        of_detr,
    ),
    "slots": (
        SlotNetwork(3, slots=8, hidden=(32,), **BFLOAT16),
        lambda outputs: outputs.boxes,
        lambda params, seen: sigmoid(dense(rectified(seen["hidden0"]), params["box"])),
    ),
    "classes of slots": (
        SlotNetwork(3, slots=8, hidden=(32,), **BFLOAT16),
        lambda outputs: outputs.logits,
        lambda params, seen: dense(rectified(seen["hidden0"]), params["class"]),
    ),
    "localizer": (
        LocalizerNetwork(Seen(), 5, per_class=True, **BFLOAT16),
        lambda outputs: outputs.boxes,
        lambda params, seen: dense(seen["hidden"], params["box"]),
    ),
    "poses": (
        AlexNetClassifier(8, (32,), **BFLOAT16),
        lambda outputs: outputs,
        lambda params, seen: dense(rectified(seen["fc6"]), params["logits"]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_places_are_those_of_float32_on_the_same_features(name, rng, key):
    """To a hundredth of a pixel; what the layers before gave, in bfloat16, is read off."""
    network, given, plain = CASES[name]
    maps = ([jnp.asarray(rng.normal(size=(2, 6, 6, 16)), jnp.bfloat16)],)
    inputs = (*maps, [jnp.ones((2, 6, 6), bool)]) if isinstance(network, DETRNetwork | SlotNetwork) else maps
    # Away from zero, where bfloat16 is coarse.
    shapes = jax.eval_shape(network.init, key, *inputs)["params"]
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32), shapes)
    outputs, state = network.apply({"params": params}, *inputs, capture_intermediates=True)
    layers = {layer: tree for layer, tree in state["intermediates"].items() if layer != "__call__"}
    seen = {layer: np.asarray(tree["__call__"][0], np.float64) for layer, tree in layers.items()}
    found = given(outputs)
    assert found.dtype == jnp.float32
    wanted = plain(params, seen).reshape(found.shape)
    np.testing.assert_allclose(SIDE * np.asarray(found, np.float64), SIDE * wanted, atol=0.01)
