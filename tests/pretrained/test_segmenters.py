"""Torchvision's names for its models of semantic segmentation, by loops, against what the models ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import pretrained
from segjax.types import Batch, Instances
from tests.pretrained.test_convert import layer, norm, resnet_shapes, shapes_of, zeros
from tests.pretrained.test_detectors import conv_norm, mobilenet_shapes

CLASSES = 21


def fcn_head(name, channels):
    kernel = {f"{name}.0.weight": (channels // 4, channels, 3, 3)}
    return kernel | norm(f"{name}.1", channels // 4) | layer(f"{name}.4", CLASSES, channels // 4, 1, 1)


def deeplab_head(channels):
    shapes = {}
    for i, side in enumerate((1, 3, 3, 3)):
        shapes |= conv_norm(f"classifier.0.convs.{i}", 256, channels, side, side)
    shapes |= {"classifier.0.convs.4.1.weight": (256, channels, 1, 1), **norm("classifier.0.convs.4.2", 256)}
    shapes |= conv_norm("classifier.0.project", 256, 5 * 256, 1, 1)
    shapes |= {"classifier.1.weight": (256, 256, 3, 3), **norm("classifier.2", 256)}
    return shapes | layer("classifier.4", CLASSES, 256, 1, 1)


def lraspp_head():
    shapes = conv_norm("classifier.cbr", 128, 960, 1, 1) | {"classifier.scale.1.weight": (128, 960, 1, 1)}
    shapes |= layer("classifier.low_classifier", CLASSES, 40, 1, 1)
    return shapes | layer("classifier.high_classifier", CLASSES, 128, 1, 1)


def state_shapes(name):
    kind, backbone = name.split("_", 1)
    if backbone.startswith("resnet"):
        head = fcn_head("classifier", 2048) if kind == "fcn" else deeplab_head(2048)
        return resnet_shapes(backbone, "backbone.") | head | fcn_head("aux_classifier", 1024)
    if kind == "lraspp":
        return mobilenet_shapes("backbone.") | lraspp_head()
    return mobilenet_shapes("backbone.") | deeplab_head(960) | fcn_head("aux_classifier", 40)


# torchvision's own counts, of its weights for 21 classes with the auxiliary head.
PARAMETERS = {
    "fcn_resnet50": 35_322_218,
    "fcn_resnet101": 54_314_346,
    "deeplabv3_resnet50": 42_004_074,
    "deeplabv3_resnet101": 60_996_202,
    "deeplabv3_mobilenet_v3_large": 11_029_328,
    "lraspp_mobilenet_v3_large": 3_221_538,
}


def needed(name, **options):
    image = np.zeros((1, 32, 32, 3), np.uint8)
    objects = Instances(np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.int32), np.zeros((1, 1), bool))
    batch = Batch(image, np.full((1, 2), 32, np.int32), objects, np.zeros(1, np.int32))
    return shapes_of(jax.eval_shape(pretrained.model(name, **options).init, jax.random.key(0), batch))


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_model_gets_every_variable_once(name):
    assert name in pretrained.names()
    shapes = state_shapes(name)
    found = shapes_of(pretrained.from_torchvision(name, zeros(shapes)))
    assert found == needed(name)
    assert len(found) == len(shapes)
    assert sum(np.prod(shape) for path, shape in found.items() if "['params']" in path) == PARAMETERS[name]


def test_weights_without_an_auxiliary_head():
    """What torchvision makes with `aux_loss=False`, and what it makes a model of by default."""
    name = "deeplabv3_mobilenet_v3_large"
    shapes = {key: shape for key, shape in state_shapes(name).items() if not key.startswith("aux")}
    found = pretrained.from_torchvision(name, zeros(shapes))
    assert shapes_of(found) == needed(name, auxiliary=False)
    # Half of an auxiliary head is a damaged file.
    half = {"aux_classifier.0.weight": (10, 40, 3, 3)}
    with pytest.raises(ValueError, match=r"lacks the weights of .*auxiliary/"):
        pretrained.from_torchvision(name, zeros(shapes | half))
    with pytest.raises(ValueError, match=r"'aux_classifier\.0\.weight' that lraspp_mobilenet_v3_large does not"):
        pretrained.from_torchvision("lraspp_mobilenet_v3_large", zeros(half))


def test_a_model_without_its_head_is_refused():
    shapes = {key: shape for key, shape in state_shapes("fcn_resnet50").items() if not key.startswith("classifier")}
    with pytest.raises(ValueError, match=r"lacks the weights of .*classifier/.*, which fcn_resnet50 needs"):
        pretrained.from_torchvision("fcn_resnet50", zeros(shapes))


def test_norms_of_the_backbone_as_constants():
    name = "lraspp_mobilenet_v3_large"
    state = {n: np.broadcast_to(np.float32(1), shape) for n, shape in state_shapes(name).items()}
    found = pretrained.from_torchvision(name, state, norm="frozen_batch")
    assert shapes_of(found) == needed(name, norm="frozen_batch")
    # The backbone's norms have an epsilon of their own; a model trained with another one is converted.
    other = pretrained.from_torchvision(name, state, norm="frozen_batch", epsilon=1e-5)
    scale = other["frozen"]["backbone"]["stem_norm"]["scale"]
    np.testing.assert_allclose(scale, np.sqrt(1.001 / 1.00001), rtol=1e-6)
    with pytest.raises(ValueError, match="norm is 'group' for lraspp_mobilenet_v3_large; only backbones and models"):
        pretrained.from_torchvision(name, state, norm="group")


def test_branches_of_the_pyramid_are_in_order():
    """Their kernels have one shape: only values tell them apart."""
    name = "deeplabv3_mobilenet_v3_large"
    state = zeros(state_shapes(name))
    for i in range(1, 4):
        key = f"classifier.0.convs.{i}.0.weight"
        state[key] = np.broadcast_to(np.float32(i), state[key].shape)
    pyramid = pretrained.from_torchvision(name, state)["params"]["classifier"]["aspp"]
    assert [float(jnp.mean(pyramid[f"branch{i}"]["kernel"])) for i in range(4)] == [0, 1, 2, 3]
