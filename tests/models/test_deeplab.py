"""The heads of torchvision's models of semantic segmentation, and the models of their recipes, without torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.segmenters import LRASPP, DeepLabV3, FCNResNet
from segjax.models.heads.pixel import ASPP, FCNHead, LRASPPHead
from segjax.types import Batch, Instances

KEY = jax.random.key(0)


def batch(height=32, width=64):
    image = jnp.zeros((1, height, width, 3), jnp.uint8)
    none = Instances(jnp.zeros((1, 1, 4)), jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1), bool))
    labels = jnp.zeros((1, height, width), jnp.uint8)
    return Batch(image, jnp.array([[height, width]]), none, jnp.zeros(1, jnp.int32), label_map=labels)


def applied(module, features):
    """What a module with random weights gives, and its parameters."""
    variables = module.init(KEY, features)
    return module.apply(variables, features), variables["params"]


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    # torchvision's own counts, of its weights for 21 classes with the auxiliary head.
    [(FCNResNet(), 35_322_218), (DeepLabV3(), 42_004_074), (LRASPP(), 3_221_538)],
)
def test_defaults_of_recipes_are_torchvisions(recipe, parameters):
    shapes = jax.eval_shape(recipe.build(21).init, KEY, batch())
    assert sum(x.size for x in jax.tree.leaves(shapes["params"])) == parameters


def test_small_models_for_small_images():
    small = {"norm": "group", "head_norm": "group", "width": 8}
    network = DeepLabV3(depth=18, rates=(1, 2), channels=16, auxiliary=False, dtype="bfloat16", **small).build(4)
    variables = jax.eval_shape(network.init, KEY, batch())
    assert set(variables) == {"params"} and set(variables["params"]["classifier"]["aspp"]) >= {"branch2", "pool"}
    assert "branch3" not in variables["params"]["classifier"]["aspp"]
    losses, _ = jax.eval_shape(network.losses, variables, batch(), KEY)
    assert set(losses) == {"cross_entropy"}
    logits = jax.eval_shape(lambda v: network.predict(v, batch().images, batch().sizes).logits, variables)
    assert (logits.shape, logits.dtype) == ((1, 32, 64, 4), jnp.float32)


@pytest.mark.parametrize("dilate, side", [(2, 8), (1, 4), (0, 2)])
def test_the_backbone_keeps_the_resolution_it_is_told_to(dilate, side):
    backbone = FCNResNet(depth=18, width=8, dilate_last=dilate).backbone()
    maps = jax.eval_shape(lambda x: backbone.init_with_output(KEY, x)[0], jnp.zeros((1, 64, 64, 3)))
    assert maps[-1].shape[1] == side


def test_a_rate_beyond_the_map_sees_one_cell(rng):
    """Such a 3x3 convolution is a 1x1 one (Chen et al. 2017, section 3.3): only its middle tap meets the map."""
    x = jnp.asarray(rng.normal(size=(1, 5, 6, 4)), jnp.float32)
    far = ASPP(8, rates=(6,), dropout=0.0)
    found, params = applied(far, x)
    kernel = np.full(params["branch1"]["kernel"].shape, 9, np.float32)
    kernel[1, 1] = params["branch1"]["kernel"][1, 1]
    params["branch1"]["kernel"] = jnp.asarray(kernel)
    variables = far.init(KEY, x) | {"params": params}
    np.testing.assert_array_equal(far.apply(variables, x), found)


def test_pooling_brings_the_whole_map_to_every_cell(rng):
    x = jnp.asarray(rng.normal(size=(2, 5, 6, 4)), jnp.float32)
    pyramid = ASPP(8, rates=(), dropout=0.0)
    variables = pyramid.init(KEY, x)
    of_x, of_other = (pyramid.apply(variables, y) for y in (x, x.at[0, 4, 5].add(30.0)))
    assert np.abs(of_x - of_other)[0, :4].max() > 1e-3
    np.testing.assert_array_equal(of_x[1], of_other[1])


def test_lite_aspp_in_the_papers_order(rng):
    """Interpolated, then classified; ours classifies first."""
    low, high = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 6, 8, 4), (2, 3, 4, 5)))
    found, params = applied(LRASPPHead(3, channels=16), [low, high])
    kernel = {name: np.asarray(layer["kernel"])[0, 0] for name, layer in params.items() if "kernel" in layer}
    gate = 1 / (1 + np.exp(-(np.asarray(high).mean((1, 2), keepdims=True) @ kernel["gate"])))
    # A new norm divides by the root of 1 + 1e-5.
    x = np.maximum(np.asarray(high) @ kernel["conv"] / np.sqrt(1 + 1e-5), 0) * gate
    x = np.asarray(jax.image.resize(x, (2, 6, 8, 16), "linear"))
    expected = x @ kernel["high"] + np.asarray(low) @ kernel["low"]
    assert found.shape == (2, 6, 8, 3) and expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_dropout_is_for_training_alone(rng):
    head = FCNHead(3, channels=16, norm="group", dropout=0.5)
    maps = [jnp.zeros((1, 2, 2, 1)), jnp.asarray(rng.normal(size=(1, 4, 4, 8)), jnp.float32)]
    variables = head.init(KEY, maps)
    trained = [head.apply(variables, maps, train=True, rngs={"dropout": jax.random.key(i)}) for i in (0, 0, 1)]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert not np.array_equal(trained[0], trained[2])
    np.testing.assert_array_equal(head.apply(variables, maps), head.apply(variables, maps))
