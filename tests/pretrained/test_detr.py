"""The names of DETR's own code, by loops, against what the model asks for."""

import jax
import numpy as np
import pytest

from segjax import pretrained
from tests.pretrained.test_convert import layer, resnet_shapes, shapes_of, zeros
from tests.pretrained.test_detectors import needed

NAME = "detr_resnet50"


def detr_shapes(classes=91, queries=100, width=256, hidden=2048):
    shapes = resnet_shapes("resnet50", "backbone.0.body.")
    shapes |= layer("input_proj", width, 2048, 1, 1) | {"query_embed.weight": (queries, width)}
    for kind, attentions in (("encoder", ("self_attn",)), ("decoder", ("self_attn", "multihead_attn"))):
        for i in range(6):
            at = f"transformer.{kind}.layers.{i}"
            shapes |= layer(f"{at}.linear1", hidden, width) | layer(f"{at}.linear2", width, hidden)
            for attention in attentions:
                shapes |= {f"{at}.{attention}.in_proj_weight": (3 * width, width)}
                shapes |= {f"{at}.{attention}.in_proj_bias": (3 * width,)}
                shapes |= layer(f"{at}.{attention}.out_proj", width, width)
            for j in range(len(attentions) + 1):
                shapes |= layer(f"{at}.norm{j + 1}", width)
    shapes |= layer("transformer.decoder.norm", width) | layer("class_embed", classes + 1, width)
    for i, out in enumerate((width, width, 4)):
        shapes |= layer(f"bbox_embed.layers.{i}", out, width)
    return shapes


def test_every_variable_once():
    shapes = detr_shapes()
    found = shapes_of(pretrained.from_torchvision(NAME, zeros(shapes)))
    assert found == shapes_of(needed(NAME)) and len(found) == len(shapes)
    assert NAME in pretrained.names()


def test_axes(rng):
    state = zeros(detr_shapes())
    state["transformer.decoder.layers.4.multihead_attn.in_proj_weight"] = x = rng.normal(size=(768, 256))
    state["class_embed.weight"] = y = rng.normal(size=(92, 256))
    head = jax.device_get(pretrained.from_torchvision(NAME, state))["params"]["head"]
    np.testing.assert_allclose(head["transformer"]["decoder4"]["cross"]["in_kernel"], x.T, rtol=1e-6)
    np.testing.assert_allclose(head["class"]["kernel"], y.T, rtol=1e-6)


@pytest.mark.parametrize(("lost", "ours"), [
    ("transformer.encoder.layers.5.norm2.weight", "params/head/transformer/encoder5/norm/scale"),
    ("transformer.decoder.layers.0.norm2.bias", "params/head/transformer/decoder0/cross_norm/bias"),
    ("bbox_embed.layers.1.bias", "params/head/box1/bias"),
    ("query_embed.weight", "params/head/queries"),
    ("backbone.0.body.bn1.running_var", "frozen/backbone/stem_norm/var"),
])  # fmt: skip
def test_each_has_its_place(lost, ours):
    """What is missing is named as ours, which shows where it would have gone."""
    state = zeros(detr_shapes())
    del state[lost]
    with pytest.raises(ValueError, match=f"lacks the weights of {ours}, which {NAME} needs"):
        pretrained.from_torchvision(NAME, state)


def test_a_segmentation_model_is_refused():
    with pytest.raises(ValueError, match="'mask_head.lay1.weight' that detr_resnet50 does not"):
        pretrained.from_torchvision(NAME, {"mask_head.lay1.weight": np.zeros((1, 1), np.float32)})
