"""Torchvision's names for SSD and SSDLite, by loops, against what the models ask for."""

import re

import jax
import numpy as np
import pytest

from segjax import pretrained
from segjax.types import Batch, Instances
from tests.pretrained.test_convert import layer, shapes_of, zeros
from tests.pretrained.test_detectors import LARGE, conv_norm

VGG16 = ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256),
         (17, 256, 512), (19, 512, 512), (21, 512, 512))  # fmt: skip
"""(torch's number, channels in, out) of the convolutions up to conv4_3."""


def ssd300_shapes(classes=90):
    shapes = {"backbone.scale_weight": (512,)}
    for place, channels, out in VGG16:
        shapes |= layer(f"backbone.features.{place}", out, channels, 3, 3)
    for place in (1, 3, 5):
        shapes |= layer(f"backbone.extra.0.{place}", 512, 512, 3, 3)
    shapes |= layer("backbone.extra.0.7.1", 1024, 512, 3, 3) | layer("backbone.extra.0.7.3", 1024, 1024, 1, 1)
    for i, (channels, narrow, out) in enumerate(((1024, 256, 512), (512, 128, 256), (256, 128, 256), (256, 128, 256))):
        shapes |= layer(f"backbone.extra.{i + 1}.0", narrow, channels, 1, 1)
        shapes |= layer(f"backbone.extra.{i + 1}.2", out, narrow, 3, 3)
    for i, (channels, priors) in enumerate(zip((512, 1024, 512, 256, 256, 256), (4, 6, 6, 6, 4, 4))):
        for head, columns in (("classification", classes + 1), ("regression", 4)):
            shapes |= layer(f"head.{head}_head.module_list.{i}", priors * columns, channels, 3, 3)
    return shapes


def ssdlite_shapes(classes=90):
    """The trunk is cut behind the expansion of block 13; of the two blocks behind it, all channels are halved."""
    shapes, tail = conv_norm("backbone.features.0.0", 16, 3, 3, 3), {12: 80, 13: 80, 14: 80}
    for i, (channels, expanded, out, kernel, squeezed) in enumerate(LARGE):
        out = tail.get(i, out)
        if i > 12:
            channels, expanded, squeezed = 80, 480, 120
        block = f"backbone.features.0.{i + 1}.block" if i < 12 else f"backbone.features.1.{i - 12}.block"
        names = [f"{block}.{j}" for j in range(4)]
        if i == 12:
            names = ["backbone.features.0.13", *(f"backbone.features.1.0.{j}" for j in (1, 2, 3))]
        names = iter(names)
        if channels != expanded:
            shapes |= conv_norm(next(names), expanded, channels, 1, 1)
        shapes |= conv_norm(next(names), expanded, 1, kernel, kernel)
        if squeezed:
            name = next(names)
            shapes |= layer(f"{name}.fc1", squeezed, expanded, 1, 1) | layer(f"{name}.fc2", expanded, squeezed, 1, 1)
        shapes |= conv_norm(next(names), out, expanded, 1, 1)
    shapes |= conv_norm("backbone.features.1.3", 480, 80, 1, 1)
    for i, (channels, out) in enumerate(((480, 512), (512, 256), (256, 256), (256, 128))):
        sizes = ((out // 2, channels, 1, 1), (out // 2, 1, 3, 3), (out, out // 2, 1, 1))
        for j, size in enumerate(sizes):
            shapes |= conv_norm(f"backbone.extra.{i}.{j}", *size)
    for i, channels in enumerate((672, 480, 512, 256, 256, 128)):
        for head, columns in (("classification", classes + 1), ("regression", 4)):
            name = f"head.{head}_head.module_list.{i}"
            shapes |= conv_norm(f"{name}.0", channels, 1, 3, 3) | layer(f"{name}.1", 6 * columns, channels, 1, 1)
    return shapes


SSD, LITE = "ssd300_vgg16", "ssdlite320_mobilenet_v3_large"
FORMS = {SSD: (ssd300_shapes, 300), LITE: (ssdlite_shapes, 320)}


@pytest.mark.parametrize("name", FORMS)
def test_detector_gets_every_variable_once(name):
    make, side = FORMS[name]
    objects = Instances(np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.int32), np.zeros((1, 1), bool))
    batch = Batch(np.zeros((1, side, side, 3), np.uint8), np.full((1, 2), side), objects, np.zeros(1, np.int32))
    needed = jax.eval_shape(pretrained.model(name).init, jax.random.key(0), batch)
    found = shapes_of(pretrained.from_torchvision(name, zeros(make())))
    assert found == shapes_of(needed)
    assert len(found) == len(make())


@pytest.mark.parametrize(("name", "lost", "ours"), [
    (SSD, "backbone.extra.0.7.1.weight", "params/backbone/fc6/kernel"),
    (SSD, "backbone.scale_weight", "params/backbone/conv4_3_scale/scale"),
    (LITE, "backbone.features.0.13.0.weight", "params/backbone/trunk/block12/expand/kernel"),
    (LITE, "backbone.features.1.0.3.0.weight", "params/backbone/trunk/block12/project/kernel"),
    (LITE, "head.regression_head.module_list.2.1.bias", "params/head/box2/bias"),
])  # fmt: skip
def test_each_has_its_place(name, lost, ours):
    """What is missing is named as ours, which shows where it would have gone."""
    state = zeros(FORMS[name][0]())
    del state[lost]
    with pytest.raises(ValueError, match=rf"lacks the weights of {re.escape(ours)}, which {name} needs"):
        pretrained.from_torchvision(name, state)
