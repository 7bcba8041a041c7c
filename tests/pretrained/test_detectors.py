"""Torchvision's names for the other detectors and backbones, by loops, against what the models ask for."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import pretrained
from segjax.models.layers.mobilenet import MobileNetV3
from segjax.models.layers.resnet import ResNet
from segjax.types import Batch, Instances
from tests.pretrained.test_convert import detector_shapes, layer, norm, resnet_shapes, shapes_of, zeros

# Of each block of MobileNetV3: (channels in, expanded, out, kernel, squeezed channels or 0).
LARGE = [
    (16, 16, 16, 3, 0),
    (16, 64, 24, 3, 0),
    (24, 72, 24, 3, 0),
    (24, 72, 40, 5, 24),
    (40, 120, 40, 5, 32),
    (40, 120, 40, 5, 32),
    (40, 240, 80, 3, 0),
    (80, 200, 80, 3, 0),
    (80, 184, 80, 3, 0),
    (80, 184, 80, 3, 0),
    (80, 480, 112, 3, 120),
    (112, 672, 112, 3, 168),
    (112, 672, 160, 5, 168),
    (160, 960, 160, 5, 240),
    (160, 960, 160, 5, 240),
]


def conv_norm(name, *shape):
    return {f"{name}.0.weight": shape, **norm(f"{name}.1", shape[0])}


def mobilenet_shapes(prefix):
    shapes = conv_norm(f"{prefix}0", 16, 3, 3, 3)
    for i, (channels, expanded, out, kernel, squeezed) in enumerate(LARGE, start=1):
        layers = [] if channels == expanded else [(expanded, channels, 1, 1)]
        layers += [(expanded, 1, kernel, kernel)] + [squeezed] * (squeezed > 0) + [(out, expanded, 1, 1)]
        for j, shape in enumerate(layers):
            if shape == squeezed:
                shapes |= layer(f"{prefix}{i}.block.{j}.fc1", squeezed, expanded, 1, 1)
                shapes |= layer(f"{prefix}{i}.block.{j}.fc2", expanded, squeezed, 1, 1)
            else:
                shapes |= conv_norm(f"{prefix}{i}.block.{j}", *shape)
    return shapes | conv_norm(f"{prefix}16", 960, 160, 1, 1)


def mask_shapes(norms, classes):
    shapes = {}
    for i in range(4):
        name = f"roi_heads.mask_head.{i}"
        shapes |= conv_norm(name, 256, 256, 3, 3) if norms else layer(f"{name}.0", 256, 256, 3, 3)
    shapes |= layer("roi_heads.mask_predictor.conv5_mask", 256, 256, 2, 2)
    return shapes | layer("roi_heads.mask_predictor.mask_fcn_logits", classes + 1, 256, 1, 1)


def v2_shapes(classes=90):
    shapes = resnet_shapes("resnet50", "backbone.body.")
    for level, channels in enumerate((256, 512, 1024, 2048)):
        shapes |= conv_norm(f"backbone.fpn.inner_blocks.{level}", 256, channels, 1, 1)
        shapes |= conv_norm(f"backbone.fpn.layer_blocks.{level}", 256, 256, 3, 3)
    for i in range(2):
        shapes |= layer(f"rpn.head.conv.{i}.0", 256, 256, 3, 3)
    for i in range(4):
        shapes |= conv_norm(f"roi_heads.box_head.{i}", 256, 256, 3, 3)
    shapes |= layer("roi_heads.box_head.5", 1024, 256 * 7 * 7)
    same = ("rpn.head.cls", "rpn.head.bbox", "roi_heads.box_predictor")
    return shapes | {name: shape for name, shape in detector_shapes(classes).items() if name.startswith(same)}


def mobilenet_detector_shapes():
    kept = {n: s for n, s in detector_shapes().items() if not n.startswith(("backbone", "rpn.head.cls", "rpn.head.bb"))}
    for level, channels in enumerate((160, 960)):
        kept |= layer(f"backbone.fpn.inner_blocks.{level}.0", 256, channels, 1, 1)
        kept |= layer(f"backbone.fpn.layer_blocks.{level}.0", 256, 256, 3, 3)
    kept |= layer("rpn.head.cls_logits", 15, 256, 1, 1) | layer("rpn.head.bbox_pred", 60, 256, 1, 1)
    return kept | mobilenet_shapes("backbone.body.")


def keypoint_shapes():
    shapes = detector_shapes(1)
    for i in range(8):
        shapes |= layer(f"roi_heads.keypoint_head.{2 * i}", 512, 512 if i else 256, 3, 3)
    name = "roi_heads.keypoint_predictor.kps_score_lowres"
    return shapes | {f"{name}.weight": (512, 17, 4, 4), f"{name}.bias": (17,)}


DETECTORS = {
    "fasterrcnn_resnet50_fpn_v2": v2_shapes,
    "fasterrcnn_mobilenet_v3_large_fpn": mobilenet_detector_shapes,
    "fasterrcnn_mobilenet_v3_large_320_fpn": mobilenet_detector_shapes,
    "maskrcnn_resnet50_fpn": lambda: detector_shapes() | mask_shapes(False, 90),
    "maskrcnn_resnet50_fpn_v2": lambda: v2_shapes() | mask_shapes(True, 90),
    "keypointrcnn_resnet50_fpn": keypoint_shapes,
}


def needed(name):
    image = np.zeros((1, 32, 32, 3), np.uint8)
    objects = Instances(np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.int32), np.zeros((1, 1), bool))
    batch = Batch(image, np.full((1, 2), 32, np.int32), objects, np.zeros(1, np.int32))
    return jax.eval_shape(pretrained.model(name).init, jax.random.key(0), batch)


@pytest.mark.parametrize("name", DETECTORS)
def test_detector_gets_every_variable_once(name):
    shapes = DETECTORS[name]()
    found = shapes_of(pretrained.from_torchvision(name, zeros(shapes)))
    assert found == shapes_of(needed(name))
    assert len(found) == len(shapes)


def test_mask_head_axes_names_and_background(rng):
    shapes = detector_shapes() | mask_shapes(False, 90)
    # Names before torchvision 0.13.
    older = lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}."  # noqa: E731
    state = {re.sub(r"mask_head\.(\d)\.0\.", older, name): value for name, value in zeros(shapes).items()}
    up = rng.normal(size=(256, 256, 2, 2)).astype(np.float32)
    last = rng.normal(size=(256, 256, 3, 3)).astype(np.float32)
    logits, bias = rng.normal(size=(91, 256, 1, 1)).astype(np.float32), rng.normal(size=91).astype(np.float32)
    assert "roi_heads.mask_head.mask_fcn4.weight" in state
    state |= {
        "roi_heads.mask_head.mask_fcn4.weight": last,
        "roi_heads.mask_predictor.conv5_mask.weight": up,
        "roi_heads.mask_predictor.mask_fcn_logits.weight": logits,
        "roi_heads.mask_predictor.mask_fcn_logits.bias": bias,
    }
    mask = pretrained.from_torchvision("maskrcnn_resnet50_fpn", state)["params"]["mask"]
    assert mask["conv3"]["kernel"][2, 0, 17, 9] == last[9, 17, 2, 0]
    # A transposed convolution's weight is [in, out, row, column].
    assert mask["upsample"]["kernel"][1, 0, 3, 5] == up[3, 5, 1, 0]
    # Class 0 is torchvision's column 1.
    assert mask["logits"]["kernel"].shape == (1, 1, 256, 90)
    assert mask["logits"]["kernel"][0, 0, 7, 0] == logits[1, 7, 0, 0]
    np.testing.assert_array_equal(mask["logits"]["bias"], bias[1:])


def test_trained_norms_have_one_epsilon():
    shapes = v2_shapes()
    with pytest.raises(
        ValueError, match=r"epsilon is 0\.0 for fasterrcnn_resnet50_fpn_v2, which has no norms that are"
    ):
        pretrained.from_torchvision("fasterrcnn_resnet50_fpn_v2", zeros(shapes), epsilon=0.0)


def mobilenet_classifier():
    return mobilenet_shapes("features.") | layer("classifier.0", 1280, 960) | layer("classifier.3", 1000, 1280)


@pytest.mark.parametrize("kind", ["frozen_batch", "batch"])
def test_mobilenet_backbone_gets_every_variable_once(kind):
    loaded = pretrained.from_torchvision("mobilenet_v3_large", zeros(mobilenet_classifier()), norm=kind)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    assert shapes_of({k: v["backbone"] for k, v in loaded.items()}) == shapes_of(
        jax.eval_shape(MobileNetV3(norm=kind).init, jax.random.key(0), image)
    )


def test_mobilenet_epsilon_is_that_of_its_own_norms():
    """The classifier's is 1e-3, which our backbone has too; the detector's is 1e-5."""
    ones = {"running_var": 1e-2, "weight": 1.0}
    shapes = mobilenet_classifier()
    state = {name: np.full(shape, ones.get(name.split(".")[-1], 0), np.float32) for name, shape in shapes.items()}

    def stem(**options):
        loaded = pretrained.from_torchvision("mobilenet_v3_large", state, **options)
        return loaded["frozen"]["backbone"]["stem_norm"]

    np.testing.assert_array_equal(stem()["scale"], 1.0)
    np.testing.assert_allclose(stem(epsilon=1e-5)["scale"], np.sqrt(0.011 / 0.01001), rtol=1e-6)


def test_a_resnet_for_trained_norms():
    state = zeros(resnet_shapes("resnet18")) | zeros(layer("fc", 1000, 512))
    loaded = pretrained.from_torchvision("resnet18", state, norm="batch")
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    assert shapes_of({k: v["backbone"] for k, v in loaded.items()}) == shapes_of(
        jax.eval_shape(ResNet(18, "batch").init, jax.random.key(0), image)
    )


@pytest.mark.parametrize(("name", "kind", "message"), [
    ("fasterrcnn_resnet50_fpn", "batch", "; only backbones and models"),
    ("resnet18", "group", "; only backbones and models"),
    ("resnet18", "layer", "; only backbones and models"),
    ("vgg16", "batch", ", which has no norms; leave it out"),
    ("alexnet", "frozen_batch", ", which has no norms; leave it out"),
])  # fmt: skip
def test_norms_that_there_is_no_choice_of(name, kind, message):
    with pytest.raises(ValueError, match=f"norm is '{kind}' for {name}{message}"):
        pretrained.from_torchvision(name, {}, norm=kind)


def test_vgg16_gives_a_backbone_and_two_layers_of_a_head(rng):
    indices = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    channels = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    shapes = {}
    for index, c, out in zip(indices, channels, channels[1:]):
        shapes |= layer(f"features.{index}", out, c, 3, 3)
    state = zeros(shapes)
    # Narrow, so that it is quick: their shapes are their own.
    state["classifier.0.weight"] = rng.normal(size=(5, 8 * 49)).astype(np.float32)
    state["classifier.3.weight"] = rng.normal(size=(6, 5)).astype(np.float32)
    state |= zeros({"classifier.0.bias": (5,), "classifier.3.bias": (6,), **layer("classifier.6", 1000, 6)})
    params = pretrained.from_torchvision("vgg16", state)["params"]
    names = {f"conv{i}_{j}" for i, count in enumerate((2, 2, 3, 3, 3), start=1) for j in range(1, count + 1)}
    assert set(params["backbone"]) == names
    assert params["backbone"]["conv4_1"]["kernel"].shape == (3, 3, 256, 512)
    assert set(params["box"]) == {"fc6", "fc7"}
    # Rows of ours are (row, column, channel), torch's columns (channel, row, column).
    assert params["box"]["fc6"]["kernel"][(2 * 7 + 6) * 8 + 5, 3] == state["classifier.0.weight"][3, 5 * 49 + 2 * 7 + 6]
    np.testing.assert_array_equal(params["box"]["fc7"]["kernel"], state["classifier.3.weight"].T)
    for lacking, path in (("classifier.0.weight", "box/fc6/kernel"), ("classifier.3.bias", "box/fc7/bias")):
        with pytest.raises(ValueError, match=f"lacks the weights of params/{path}, which vgg16 needs"):
            pretrained.from_torchvision("vgg16", {name: x for name, x in state.items() if name != lacking})
