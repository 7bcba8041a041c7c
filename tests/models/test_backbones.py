"""VGG-16, MobileNetV3 and dilated ResNets: shapes, strides, and the numbers of parameters that torchvision gives."""

import jax
import jax.numpy as jnp
import pytest

from segjax.models.layers.mobilenet import MobileNetV3, block_plans, divisible
from segjax.models.layers.norms import norm_layer
from segjax.models.layers.resnet import ResNet, Stage, resnet_stage
from segjax.models.layers.vgg import VGG16

IMAGE = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)


def traced(network, key):
    """Shapes of the maps and of the variables, and a check that the maps have the strides that the network says."""
    maps, variables = jax.eval_shape(network.init_with_output, key, IMAGE)
    assert [(64 // x.shape[1], 96 // x.shape[2]) for x in maps] == [(s, s) for s in network.strides]
    return maps, variables


def size(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def test_vgg16(key):
    network = VGG16()
    (last,), variables = traced(network, key)
    assert network.strides == (16,) and last.shape == (2, 4, 6, 512)
    # 138 357 544 in the table of VGG16_Weights, of which these are the three dense layers.
    dense = (512 * 7 * 7 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    assert size(variables["params"]) + dense == 138_357_544
    assert set(variables["params"]["conv5_3"]) == {"kernel", "bias"}


def test_vgg16_made_smaller_with_norms(key):
    network = VGG16("group", width=8, stages=(3, 4))
    maps, variables = traced(network, key)
    assert network.strides == (4, 8)
    assert [x.shape[-1] for x in maps] == [32, 64]
    assert "conv5_1" not in variables["params"]
    assert set(variables["params"]["conv4_1"]) == {"kernel"}
    assert {name for name in variables["params"] if name.startswith("norm1")} == {"norm1_1", "norm1_2"}


def test_vgg16_floors_odd_sizes(key):
    maps = jax.eval_shape(VGG16(width=8).init_with_output, key, jax.ShapeDtypeStruct((1, 50, 47, 3), jnp.float32))[0]
    assert maps[0].shape == (1, 3, 2, 64)


CLASSIFIER = {"large": (960 + 1) * 1280 + (1280 + 1) * 1000, "small": (576 + 1) * 1024 + (1024 + 1) * 1000}
"""Parameters of the two dense layers, which a backbone has not."""


@pytest.mark.parametrize(("kind", "parameters"), [("large", 5_483_032), ("small", 2_542_856)])
def test_mobilenet_parameters(kind, parameters, key):
    """Those in the tables of MobileNet_V3_Large_Weights and MobileNet_V3_Small_Weights."""
    network = MobileNetV3(kind, "batch", stages=(0, 1, 2, 3, 4, 5))
    _, variables = traced(network, key)
    assert size(variables["params"]) + CLASSIFIER[kind] == parameters


@pytest.mark.parametrize(
    ("options", "strides", "channels"),
    [
        ({}, (32, 32), (160, 960)),
        ({"dilated": True}, (16, 16), (160, 960)),
        ({"reduced_tail": True}, (32, 32), (80, 480)),
        ({"width": 0.5, "stages": (1, 4)}, (4, 32), (16, 80)),
        ({"stages": (2, 5)}, (8, 32), (40, 960)),
        ({"stages": (4, 5), "expanded": (4,), "reduced_tail": True}, (16, 32), (672, 480)),
        ({"size": "small", "stages": (1, 2, 3)}, (4, 8, 16), (16, 24, 40)),
        ({"size": "small", "stages": (2,), "expanded": (2,)}, (4,), (72,)),
    ],
)
def test_mobilenet_maps(options, strides, channels, key):
    network = MobileNetV3(**options)
    maps, _ = traced(network, key)
    assert network.strides == strides
    assert tuple(x.shape[-1] for x in maps) == channels


def test_mobilenet_builds_no_stage_that_nobody_asked_for(key):
    _, variables = traced(MobileNetV3(stages=(2,)), key)
    assert set(variables["params"]) == {"stem", "block0", "block1", "block2", "block3"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": (5, 6)}, r"stages is \(5, 6\); MobileNetV3 has the stages 0 to 5\."),
        ({"stages": ()}, r"stages is \(\)"),
        ({"expanded": (3,)}, r"expanded is \(3,\); take some of `stages`, of which 1 to 4 have an expansion\."),
        ({"expanded": (5,)}, r"expanded is \(5,\)"),
        ({"size": "small", "stages": (1,), "expanded": (1,)}, r"expanded is \(1,\).* 2 to 4"),
    ],
)
def test_mobilenet_refuses(options, message, key):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(MobileNetV3(**options).init, key, IMAGE)


def test_channels_are_divisible_by_eight():
    # 4.9 rounds to 8, the least; 35.9 to 32, less than nine tenths, so to 40.
    assert [divisible(n) for n in (4.9, 16, 18, 20, 35.9, 36, 100)] == [8, 16, 24, 24, 40, 40, 104]
    assert block_plans("small", width=0.5)[0].out == 8


def test_mobilenet_computes_in_its_dtype(key):
    maps, variables = jax.eval_shape(MobileNetV3(dtype=jnp.bfloat16).init_with_output, key, IMAGE)
    assert {x.dtype for x in maps} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(("dilate_last", "strides"), [(True, (4, 8, 16, 16)), (2, (4, 8, 8, 8)), (3, (4, 4, 4, 4))])
@pytest.mark.parametrize("depth", [18, 50])
def test_dilated_resnets_keep_their_resolution_and_their_weights(depth, dilate_last, strides, key):
    network = ResNet(depth, width=8, dilate_last=dilate_last)
    _, variables = traced(network, key)
    assert network.strides == strides
    plain = jax.eval_shape(ResNet(depth, width=8).init, key, IMAGE)
    assert jax.tree.map(lambda x: x.shape, variables) == jax.tree.map(lambda x: x.shape, plain)


def test_no_more_than_three_stages_are_dilated(key):
    with pytest.raises(ValueError, match="dilate_last is 4"):
        jax.eval_shape(ResNet(18, dilate_last=4).init, key, IMAGE)


def test_a_stage_by_itself_is_that_of_the_network(key):
    whole = jax.eval_shape(ResNet(50, "batch", width=8).init, key, IMAGE)
    regions = jax.ShapeDtypeStruct((3, 14, 14, 8 * 4 * 4), jnp.float32)
    stage = resnet_stage(50, 4, norm="batch", width=8)
    y, own = jax.eval_shape(stage.init_with_output, key, regions)
    assert y.shape == (3, 7, 7, 8 * 8 * 4)
    assert own["params"] == whole["params"]["layer4"]
    assert own["batch_stats"] == whole["batch_stats"]["layer4"]
    by_hand = Stage(3, 64, 2, True, norm_layer("batch"), jnp.float32)
    assert jax.eval_shape(by_hand.init, key, regions) == own
