"""Torchvision's names and shapes, written here by loops, against the variables that the models ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import pretrained
from segjax.models.layers.resnet import ResNet
from segjax.types import Batch, Instances

DETECTOR = "fasterrcnn_resnet50_fpn"
STAGES = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def norm(name, channels):
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def layer(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def resnet_shapes(name, prefix=""):
    """The trunk of a torchvision ResNet: name -> shape."""
    expansion, deep = (1, False) if name in ("resnet18", "resnet34") else (4, True)
    shapes = {f"{prefix}conv1.weight": (64, 3, 7, 7), **norm(f"{prefix}bn1", 64)}
    inputs = 64
    for stage, blocks in enumerate(STAGES[name], start=1):
        width = 64 * 2 ** (stage - 1)
        for block in range(blocks):
            at = f"{prefix}layer{stage}.{block}"
            kernels = (1, 3, 1) if deep else (3, 3)
            outputs = (width, width, 4 * width) if deep else (width, width)
            channels = inputs
            for i, (kernel, out) in enumerate(zip(kernels, outputs), start=1):
                shapes |= {f"{at}.conv{i}.weight": (out, channels, kernel, kernel), **norm(f"{at}.bn{i}", out)}
                channels = out
            if block == 0 and (stage > 1 or deep):
                shapes |= {f"{at}.downsample.0.weight": (channels, inputs, 1, 1)}
                shapes |= norm(f"{at}.downsample.1", channels)
            inputs = width * expansion
    return shapes


def detector_shapes(classes=90):
    """`fasterrcnn_resnet50_fpn`: name -> shape."""
    shapes = resnet_shapes("resnet50", "backbone.body.")
    for level, channels in enumerate((256, 512, 1024, 2048)):
        shapes |= layer(f"backbone.fpn.inner_blocks.{level}.0", 256, channels, 1, 1)
        shapes |= layer(f"backbone.fpn.layer_blocks.{level}.0", 256, 256, 3, 3)
    return {
        **shapes,
        **layer("rpn.head.conv.0.0", 256, 256, 3, 3),
        **layer("rpn.head.cls_logits", 3, 256, 1, 1),
        **layer("rpn.head.bbox_pred", 12, 256, 1, 1),
        **layer("roi_heads.box_head.fc6", 1024, 256 * 7 * 7),
        **layer("roi_heads.box_head.fc7", 1024, 1024),
        **layer("roi_heads.box_predictor.cls_score", classes + 1, 1024),
        **layer("roi_heads.box_predictor.bbox_pred", 4 * (classes + 1), 1024),
    }


def zeros(shapes):
    """A state dict of zeros that takes no memory, with the counters that torch's batch norms carry."""
    counters = {n.replace("running_mean", "num_batches_tracked"): np.int64(7) for n in shapes if "running_mean" in n}
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()} | counters


def needed(classes=90):
    """Variables that the detector asks for, shapes only."""
    image = np.zeros((1, 32, 32, 3), np.uint8)
    objects = Instances(np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.int32), np.zeros((1, 1), bool))
    batch = Batch(image, np.full((1, 2), 32, np.int32), objects, np.zeros(1, np.int32))
    return jax.eval_shape(pretrained.model(DETECTOR, classes=classes).init, jax.random.key(0), batch)


def shapes_of(tree):
    return {jax.tree_util.keystr(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module")
def loaded():
    return pretrained.from_torchvision(DETECTOR, zeros(detector_shapes()))


def test_detector_gets_every_variable_once(loaded):
    shapes = shapes_of(loaded)
    assert shapes == shapes_of(needed())
    # As many leaves as entries: no two torch names went to the same place.
    assert len(shapes) == len(detector_shapes())
    assert {x.dtype for x in jax.tree.leaves(loaded)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", STAGES)
def test_backbone_gets_every_variable_once(name):
    state = zeros(resnet_shapes(name)) | zeros(layer("fc", 1000, 512 if name in ("resnet18", "resnet34") else 2048))
    shapes = shapes_of({k: v["backbone"] for k, v in pretrained.from_torchvision(name, state).items()})
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    assert shapes == shapes_of(jax.eval_shape(ResNet(int(name[6:])).init, jax.random.key(0), image))
    assert len(shapes) == len(resnet_shapes(name))


def test_names_of_older_releases(loaded):
    old = {
        name.replace(".conv.0.0.", ".conv.")
        if name.startswith("rpn")
        else name.replace(".0.weight", ".weight")
        if "fpn" in name
        else name: value
        for name, value in zeros(detector_shapes()).items()
    }
    old = {name.replace(".0.bias", ".bias") if "fpn" in name else name: value for name, value in old.items()}
    assert "rpn.head.conv.weight" in old and "backbone.fpn.inner_blocks.0.weight" in old
    assert shapes_of(pretrained.from_torchvision(DETECTOR, old)) == shapes_of(loaded)


def test_axes_move_where_they_belong(rng):
    """One entry of each kind, element by element."""
    state = zeros(detector_shapes())
    conv = state["rpn.head.conv.0.0.weight"] = rng.normal(size=(256, 256, 3, 3)).astype(np.float32)
    dense = state["roi_heads.box_head.fc7.weight"] = rng.normal(size=(1024, 1024)).astype(np.float32)
    flat = np.zeros((1024, 256 * 49), np.float32)
    # Torch flattens (channel, row, column): channel 5, row 2, column 6.
    flat[3, 5 * 49 + 2 * 7 + 6] = 1
    params = pretrained.from_torchvision(DETECTOR, state | {"roi_heads.box_head.fc6.weight": flat})["params"]
    assert params["rpn"]["conv"]["kernel"][2, 0, 17, 9] == conv[9, 17, 2, 0]
    assert params["box"]["fc7"]["kernel"][4, 11] == dense[11, 4]
    # We flatten (row, column, channel).
    assert np.argwhere(params["box"]["fc6"]["kernel"]).tolist() == [[(2 * 7 + 6) * 256 + 5, 3]]


def test_entries_of_another_model_are_named():
    with pytest.raises(ValueError, match=r"roi_heads\.mask_head\.0\.0\.weight.* fasterrcnn_resnet50_fpn"):
        pretrained.from_torchvision(
            DETECTOR, zeros(detector_shapes() | {"roi_heads.mask_head.0.0.weight": (256, 256, 3, 3)})
        )
    with pytest.raises(ValueError, match=r"conv1\.weight"):
        pretrained.from_torchvision(DETECTOR, zeros(resnet_shapes("resnet50")))


def test_missing_entries_are_named():
    shapes = detector_shapes()
    del shapes["rpn.head.conv.0.0.bias"]
    with pytest.raises(ValueError, match=r"lacks the weights of params/rpn/conv/bias, which fasterrcnn"):
        pretrained.from_torchvision(DETECTOR, zeros(shapes))
    with pytest.raises(ValueError, match=r"and \d+ more, which fasterrcnn"):
        pretrained.from_torchvision(DETECTOR, {})
    # A shallower network's names are a part of a deeper one's.
    with pytest.raises(ValueError, match=r"backbone/layer\d/block\d+/.* which resnet101 needs"):
        pretrained.from_torchvision("resnet101", zeros(resnet_shapes("resnet50")))


def test_unknown_names():
    assert {DETECTOR, "resnet18", "resnet152"} <= set(pretrained.names())
    with pytest.raises(ValueError, match=r"'resnet51'.*fasterrcnn_resnet50_fpn.*, resnet18"):
        pretrained.from_torchvision("resnet51", {})
    # A backbone alone is no model.
    with pytest.raises(ValueError, match="'resnet50'"):
        pretrained.model("resnet50")


def test_merge_reports_what_another_number_of_classes_leaves_out(loaded):
    model_variables = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), needed(classes=3))
    merged, unused = pretrained.merge(model_variables, loaded)
    assert shapes_of(merged) == shapes_of(model_variables)
    assert unused == {
        "params/box/class/kernel": "its shape is (1024, 91), the model's is (1024, 4)",
        "params/box/class/bias": "its shape is (91,), the model's is (4,)",
        "params/box/box/kernel": "its shape is (1024, 364), the model's is (1024, 16)",
        "params/box/box/bias": "its shape is (364,), the model's is (16,)",
    }
    kept = {path for path, x in pretrained.convert._flat(merged).items() if x.min() == 1}
    assert kept == set(unused)


def test_merge_takes_a_backbone_and_names_what_the_model_has_not():
    shape = (7, 7, 3, 64)
    model_variables = {"params": {"backbone": {"stem": {"kernel": jnp.zeros(shape)}}, "neck": {"bias": jnp.zeros(4)}}}
    loaded = {"params": {"backbone": {"stem": {"kernel": jnp.ones(shape)}, "layer9": {"kernel": jnp.ones(1)}}}}
    merged, unused = pretrained.merge(model_variables, loaded)
    assert merged["params"]["backbone"]["stem"]["kernel"].all() and not merged["params"]["neck"]["bias"].any()
    assert unused == {"params/backbone/layer9/kernel": "the model has no such variable"}
    assert not model_variables["params"]["backbone"]["stem"]["kernel"].any()


def test_epsilon_of_the_norms_is_converted(rng):
    """Released COCO weights expect norms without epsilon: the same factors must come out of ours, which have one."""
    state = zeros(resnet_shapes("resnet18"))
    scale = state["bn1.weight"] = rng.normal(size=64).astype(np.float32)
    # Small variances are where it matters.
    var = state["bn1.running_var"] = np.geomspace(1e-7, 1, 64).astype(np.float32)
    rest = {
        name: np.ones_like(x) for name, x in state.items() if name.endswith("running_var") and name != "bn1.running_var"
    }
    ours = pretrained.from_torchvision("resnet18", state | rest, epsilon=0.0)["frozen"]["backbone"]["stem_norm"]
    np.testing.assert_allclose(ours["scale"] / np.sqrt(ours["var"] + 1e-5), scale / np.sqrt(var), rtol=1e-5)


def test_variables_do_not_share_memory_with_the_state_dict():
    state = {name: np.array(x) for name, x in zeros(resnet_shapes("resnet18")).items()}
    loaded = pretrained.from_torchvision("resnet18", state)
    for x in state.values():
        x += 1
    assert not any(x.any() for x in jax.tree.leaves(loaded))
