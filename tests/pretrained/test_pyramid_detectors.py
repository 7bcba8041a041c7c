"""Torchvision's names for RetinaNet and FCOS, by loops, against what the models ask for."""

import re

import jax
import numpy as np
import pytest

from segjax import pretrained
from tests.pretrained.test_convert import layer, resnet_shapes, shapes_of, zeros
from tests.pretrained.test_detectors import needed

CLASSES = 90
TOWERS = ("classification", "regression")


def trunk_shapes(coarser_from=256):
    shapes = resnet_shapes("resnet50", "backbone.body.")
    for level, channels in enumerate((512, 1024, 2048)):
        shapes |= layer(f"backbone.fpn.inner_blocks.{level}.0", 256, channels, 1, 1)
        shapes |= layer(f"backbone.fpn.layer_blocks.{level}.0", 256, 256, 3, 3)
    shapes |= layer("backbone.fpn.extra_blocks.p6", 256, coarser_from, 3, 3)
    return shapes | layer("backbone.fpn.extra_blocks.p7", 256, 256, 3, 3)


def group_norm(name):
    return {f"{name}.weight": (256,), f"{name}.bias": (256,)}


def retinanet_shapes(v2=False):
    shapes = trunk_shapes(2048 if v2 else 256)
    for tower in TOWERS:
        for i in range(4):
            conv = f"head.{tower}_head.conv.{i}"
            if v2:
                shapes |= {f"{conv}.0.weight": (256, 256, 3, 3), **group_norm(f"{conv}.1")}
            else:
                shapes |= layer(f"{conv}.0", 256, 256, 3, 3)
    shapes |= layer("head.classification_head.cls_logits", 9 * (CLASSES + 1), 256, 3, 3)
    return shapes | layer("head.regression_head.bbox_reg", 9 * 4, 256, 3, 3)


def fcos_shapes():
    shapes = trunk_shapes()
    for tower in TOWERS:
        for i in range(4):
            shapes |= layer(f"head.{tower}_head.conv.{3 * i}", 256, 256, 3, 3)
            shapes |= group_norm(f"head.{tower}_head.conv.{3 * i + 1}")
    shapes |= layer("head.classification_head.cls_logits", CLASSES + 1, 256, 3, 3)
    shapes |= layer("head.regression_head.bbox_reg", 4, 256, 3, 3)
    return shapes | layer("head.regression_head.bbox_ctrness", 1, 256, 3, 3)


SHAPES = {
    "retinanet_resnet50_fpn": retinanet_shapes,
    "retinanet_resnet50_fpn_v2": lambda: retinanet_shapes(v2=True),
    "fcos_resnet50_fpn": fcos_shapes,
}


@pytest.mark.parametrize("name", SHAPES)
def test_detector_gets_every_variable_once(name):
    shapes = SHAPES[name]()
    found = shapes_of(pretrained.from_torchvision(name, zeros(shapes)))
    assert found == shapes_of(needed(name))
    assert len(found) == len(shapes)


def test_retinanet_classes_lose_the_background_of_every_anchor(rng):
    state = zeros(retinanet_shapes())
    name = "head.classification_head.cls_logits"
    state[f"{name}.bias"] = rng.normal(size=9 * (CLASSES + 1)).astype(np.float32)
    # Few channels, so that it is quick: their number is their own.
    state[f"{name}.weight"] = rng.normal(size=(9 * (CLASSES + 1), 2, 3, 3)).astype(np.float32)
    head = pretrained.from_torchvision("retinanet_resnet50_fpn", state)["params"]["head"]["class"]
    for anchor, label in ((0, 0), (0, 89), (4, 17), (8, 89)):
        ours, theirs = anchor * CLASSES + label, anchor * (CLASSES + 1) + label + 1
        assert head["bias"][ours] == state[f"{name}.bias"][theirs]
        assert head["kernel"][2, 0, 1, ours] == state[f"{name}.weight"][theirs, 1, 2, 0]


def test_fcos_classes_lose_the_background(rng):
    state = zeros(fcos_shapes())
    state["head.classification_head.cls_logits.bias"] = np.arange(91, dtype=np.float32)
    state["head.regression_head.conv.9.bias"] = np.full(256, 5, np.float32)
    head = pretrained.from_torchvision("fcos_resnet50_fpn", state)["params"]["head"]
    np.testing.assert_array_equal(head["class"]["bias"], np.arange(1, 91))
    assert (head["box_conv3"]["bias"] == 5).all() and not head["box_conv2"]["bias"].any()


def test_names_before_torchvision_0_13():
    """Those of the published file: rectifiers were counted, and the pyramid's layers were in no sequence."""
    older = lambda found: f"_head.conv.{2 * int(found[1])}."  # noqa: E731
    state = {
        re.sub(r"_head\.conv\.(\d)\.0\.", older, re.sub(r"(fpn\.\w+_blocks\.\d)\.0", r"\1", name)): value
        for name, value in zeros(retinanet_shapes()).items()
    }
    assert "head.regression_head.conv.6.bias" in state and "backbone.fpn.inner_blocks.2.bias" in state
    variables = pretrained.from_torchvision("retinanet_resnet50_fpn", state)
    assert jax.tree.structure(variables) == jax.tree.structure(needed("retinanet_resnet50_fpn"))
