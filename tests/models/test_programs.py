"""`losses` and `predict` are one XLA program each, for every platform, without calls to the host; and they learn."""

import dataclasses

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.models import FasterRCNN
from tests import tiny
from tests.models.test_faster_rcnn import overlap

STEPS = 300
PLATFORMS = ("cpu", "cuda", "tpu")
MODELS = {
    "tiny bfloat16 batch norm": dataclasses.replace(tiny.MODEL, dtype="bfloat16", norm="batch"),
    "R50-FPN": FasterRCNN(),
}


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_predict_lower_for_every_platform(name, key):
    model, batch = MODELS[name].build(3), tiny.batch_of(tiny.TWO)
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
    optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, STEPS))

    @jax.jit
    def step(variables, state, key):
        def total(params):
            return sum(model.losses({**variables, "params": params}, batch, key)[0].values())

        loss, grads = jax.value_and_grad(total)(variables["params"])
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam takes a float to an integer's power
            updates, state = optimizer.update(grads, state)
        return {**variables, "params": optax.apply_updates(variables["params"], updates)}, state, loss

    variables = jax.jit(model.init)(jax.random.key(0), batch)
    state, losses = optimizer.init(variables["params"]), []
    for key in jax.random.split(jax.random.key(1), STEPS):
        variables, state, loss = step(variables, state, key)
        losses.append(float(loss))
    assert np.mean(losses[-5:]) < 0.15 * losses[0]
    found = jax.device_get(jax.jit(model.predict)(variables, batch.images, batch.sizes))
    for i, (boxes, labels) in enumerate(tiny.TWO):
        # As many detections as there are objects come first, one at each, of its class.
        first = range(len(boxes))
        assert found.valid[i, : len(boxes)].all()
        for box, label in zip(boxes, labels):
            best = max(first, key=lambda j: overlap(found.boxes[i, j], box))
            assert overlap(found.boxes[i, best], box) > 0.5 and found.labels[i, best] == label
