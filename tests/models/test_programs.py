"""`losses` and `predict` are one XLA program each, for every platform, without calls to the host; and they learn."""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp
import pytest

from configs import CONFIGS
from configs.detectors import FasterRCNN
from tests import tiny
from tests.models.test_faster_rcnn import overlap

STEPS = 300
PLATFORMS = ("cpu", "cuda", "tpu")
MODELS = {
    "tiny bfloat16 batch norm": dataclasses.replace(tiny.MODEL, dtype="bfloat16", norm="batch"),
    "R50-FPN": FasterRCNN(),
    "tiny masks": tiny.MASK_MODEL,
    "tiny joints": tiny.KEYPOINT_MODEL,
    **{
        name: CONFIGS[f"{name}_scenes"].model
        for name in ("retinanet", "fcos", "ssd", "yolo_v1", "gridnet", "localization")
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_predict_lower_for_every_platform(name, key):
    model, batch = MODELS[name].build(3, tiny.JOINTS), tiny.with_everything(tiny.batch_of(tiny.TWO))
    variables = jax.eval_shape(model.init, key, batch)

    def gradient(params, variables, batch, key):
        return jax.value_and_grad(lambda p: sum(model.losses({**variables, "params": p}, batch, key)[0].values()))(
            params
        )

    arguments = {"losses": (gradient, (variables["params"], variables, batch, key))}
    arguments["predict"] = (model.predict, (variables, jnp.asarray(batch.images), jnp.asarray(batch.sizes)))
    for function, given in arguments.values():
        leaves, structure = jax.tree.flatten(given)

        def flat(*leaves):
            return jax.tree.leaves(function(*jax.tree.unflatten(structure, leaves)))  # noqa: B023

        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
        exported = jax.export.export(jax.jit(flat), platforms=PLATFORMS)(*shapes)
        assert exported.platforms == PLATFORMS
        module = exported.mlir_module()
        assert "callback" not in module and "stablehlo.send" not in module
        assert module.count("@main") >= 1 and len(exported.out_avals) >= 1


def test_it_overfits_one_batch():
    """From scratch, Adam brings the losses of two images down, and predict then finds their objects."""
    model, batch = tiny.MODEL.build(len(tiny.CLASSES)), jax.tree.map(jnp.asarray, tiny.batch_of(tiny.TWO))
    variables, first, last = tiny.overfit(model, batch, steps=STEPS)
    assert sum(last.values()) < 0.15 * sum(first.values())
    found = jax.device_get(jax.jit(model.predict)(variables, batch.images, batch.sizes))
    for i, (boxes, labels) in enumerate(tiny.TWO):
        # As many detections as there are objects come first, one at each, of its class.
        first = range(len(boxes))
        assert found.valid[i, : len(boxes)].all()
        for box, label in zip(boxes, labels):
            best = max(first, key=lambda j: overlap(found.boxes[i, j], box))
            assert overlap(found.boxes[i, best], box) > 0.5 and found.labels[i, best] == label
