"""The jitted step: the same on one device and on eight, in parts or whole, and what it must leave alone."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from configs.base import Optim
from tests import tiny
from train.optim import optimizer
from train.state import check_frozen, create_state, join, split
from train.step import data_mesh, make_step, shardings

STEPS = 10
OBJECTS = [([[4 + i, 6, 30 + i, 28 + 2 * i]], [i % 3]) for i in range(7)] + [([], [])]
OPTIM = Optim(lr=0.05, weight_decay=0.01, schedule="constant", warmup_steps=0)
TINY = dataclasses.replace(tiny.MODEL, norm="batch")


@pytest.fixture(scope="module")
def model():
    return TINY.build(3)


@pytest.fixture(scope="module")
def batch():
    return tiny.batch_of(OBJECTS)


@pytest.fixture(scope="module")
def start(model):
    """Host copies of the variables every state here starts from."""
    return jax.device_get(jax.jit(model.init)(jax.random.key(0), tiny.batch_of(tiny.TWO)))


def new_state(model, start, optim=OPTIM, mesh=None):
    """A state whose parameters are `start`, on all devices of `mesh`; made anew, since a step donates it."""
    stub = model._replace(init=lambda key, batch: jax.tree.map(jnp.asarray, start))
    average = optim.ema_decay is not None
    options = dict(seed=3, frozen=optim.freeze, average=average)
    state, _ = create_state(stub, optimizer(optim, STEPS), tiny.batch_of(tiny.TWO), **options)
    return jax.device_put(state, shardings(mesh or data_mesh(1))[0])


def run(model, start, batches, *, optim=OPTIM, devices=1, **options):
    """Steps over `batches`: (state, [metrics of each step], step), all on the host."""
    mesh = data_mesh(devices)
    more = dict(mesh=mesh, ema_decay=optim.ema_decay, accumulate=optim.accumulate, frozen=optim.freeze)
    step = make_step(model, optimizer(optim, STEPS), **more, **options)
    state, seen = new_state(model, start, optim, mesh), []
    for batch in batches:
        state, values = step(state, jax.device_put(batch, shardings(mesh)[1]))
        seen.append(jax.device_get(values))
    return jax.device_get(state), seen, step


@pytest.fixture(scope="module")
def one(model, start, batch):
    return run(model, start, [batch, batch])


def test_metrics_of_a_step(one):
    state, (first, second), step = one
    terms = ("rpn_objectness", "rpn_box", "class", "box")
    assert set(first) == {"loss", "grad_norm", *(f"loss/{name}" for name in terms)}
    np.testing.assert_allclose(first["loss"], sum(first[f"loss/{name}"] for name in terms), rtol=1e-6)
    assert first["grad_norm"] > 0 and second["loss"] != first["loss"]
    assert int(state.step) == 2 and step.compilations == 1


def test_eight_devices_do_what_one_does(one, model, start, batch):
    assert jax.device_count() == 8
    state, seen, _ = run(model, start, [batch, batch], devices=8)
    chex.assert_trees_all_close(seen, one[1], rtol=2e-4, atol=1e-6)
    moved = jax.tree.map(lambda new, old: new - old, one[0].params, start["params"])
    there = jax.tree.map(lambda new, old: new - old, state.params, start["params"])
    scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(moved))
    assert scale > 1e-3
    chex.assert_trees_all_close(there, moved, rtol=1e-3, atol=1e-4 * scale)
    chex.assert_trees_all_close(state.statistics, one[0].statistics, rtol=1e-4, atol=1e-5)


def test_statistics_of_batch_norm_are_the_steps_own(one, start):
    changed = [
        (a != b).any() for a, b in zip(jax.tree.leaves(one[0].statistics), jax.tree.leaves(start_statistics(start)))
    ]
    assert changed and all(changed)


def start_statistics(start):
    return {name: value for name, value in start.items() if name != "params"}


def test_accumulating_averages_the_halves(start):
    """Two halves give the mean of their gradients: with plain SGD, the mean of where each would lead."""
    model = tiny.MODEL.build(3)
    start = jax.device_get(jax.jit(model.init)(jax.random.key(0), tiny.batch_of(tiny.TWO)))
    batch = tiny.batch_of(OBJECTS[:4])
    optim = dataclasses.replace(OPTIM, momentum=0.0, weight_decay=0.0)
    whole, seen, _ = run(model, start, [batch], optim=dataclasses.replace(optim, accumulate=2))
    parts = [jax.tree.map(lambda x, i=i: x[i::2], batch) for i in (0, 1)]
    ends = [run(model, start, [part], optim=optim) for part in parts]
    for name in ("loss", "loss/class", "loss/rpn_box"):
        np.testing.assert_allclose(seen[0][name], np.mean([s[0][name] for _, s, _ in ends]), rtol=1e-5)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, ends[0][0].params, ends[1][0].params)
    chex.assert_trees_all_close(whole.params, mean, rtol=1e-4, atol=1e-6)
    assert np.abs(seen[0]["grad_norm"]) > 0


def test_a_batch_that_does_not_divide_is_refused(model, start, batch):
    with pytest.raises(ValueError, match=r"a batch of 8 images cannot be cut into optim\.accumulate = 3 equal parts"):
        run(model, start, [batch], optim=dataclasses.replace(OPTIM, accumulate=3))


def test_frozen_parameters_stay_bitwise(model, start, batch):
    optim = dataclasses.replace(OPTIM, freeze=("backbone/stem", "backbone/layer1"), ema_decay=0.9)
    state, _, _ = run(model, start, [batch], optim=optim)
    before = traverse_util.flatten_dict(start["params"], sep="/")
    after = traverse_util.flatten_dict(state.params, sep="/")
    still = {path for path in before if path.startswith(("backbone/stem/", "backbone/layer1/"))}
    assert 4 < len(still) < len(before)
    for path in before:
        assert (before[path] == after[path]).all() == (path in still), path
    traces = {path for path in optimizer_paths(state.opt_state) if path in before}
    assert traces == set(before) - still


def optimizer_paths(opt_state) -> set[str]:
    """Every dictionary key in the optimiser's state."""
    entries = jax.tree_util.tree_leaves_with_path(opt_state)
    return {entry.key for path, _ in entries for entry in path if hasattr(entry, "key")}


def test_a_misspelt_freeze_is_refused(start):
    expected = r"optim\.freeze names 'backbone/stm', where no parameter is; there are .*backbone/stem, .*"
    with pytest.raises(ValueError, match=expected):
        check_frozen(start["params"], ("backbone/layer1", "backbone/stm"))
    with pytest.raises(ValueError, match="'backbone/lay'"):  # whole names only
        check_frozen(start["params"], ("backbone/lay",))


def test_split_and_join(start):
    trained, still = split(start["params"], ("neck", "rpn/conv"))
    assert {path.split("/")[0] for path in still} == {"neck", "rpn"} and not set(trained) & set(still)
    chex.assert_trees_all_equal(join(trained, still), start["params"])


def test_loss_weights(model, start, batch, one):
    weights = {"class": 3.0, "rpn_box": 0.0}
    _, seen, _ = run(model, start, [batch], loss_weights=weights)
    first = one[1][0]
    expected = 3 * first["loss/class"] + first["loss/box"] + first["loss/rpn_objectness"]
    np.testing.assert_allclose(seen[0]["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(seen[0]["loss/class"], first["loss/class"], rtol=1e-6)  # terms are told unweighted


def test_a_misspelt_loss_weight_is_refused(model, start, batch):
    expected = r"loss_weights names 'clas'; the model's losses are .*\bclass\b"
    with pytest.raises(ValueError, match=expected):
        run(model, start, [batch], loss_weights={"clas": 2.0})


def test_moving_average(model, start, batch):
    """(1 + n) / (10 + n) at first, the decay asked for later: here 0.15 is met at the second step."""
    optim = dataclasses.replace(OPTIM, ema_decay=0.15)
    states = [run(model, start, [batch] * n, optim=optim)[0] for n in (1, 2)]
    average = start["params"]
    for decay, state in zip((0.1, 0.15), states):
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, state.params)
        chex.assert_trees_all_close(state.average, average, rtol=1e-5, atol=1e-6)
    assert states[1].variables["params"] is states[1].average
    assert set(states[1].variables) == {"params", "batch_stats"}


def test_one_compilation_a_shape():
    """Three shapes in two epochs are three compilations; the model here is one line, the step is the real one."""
    model = stub(lambda params, batch, key: {"mean": (batch.images / 255).mean() * params["w"].sum()})
    step = make_step(model, optax.sgd(0.1), mesh=data_mesh(1))
    state, _ = create_state(model, optax.sgd(0.1), tiny.batch_of([([], [])]), seed=0)
    state = jax.device_put(state, shardings(data_mesh(1))[0])  # where the step leaves it: else a fourth trace
    counts = []
    for side in (32, 64, 96, 32, 64, 96, 96):
        state, _ = step(state, tiny.batch_of([([], [])] * 2, side=side))
        counts.append(step.compilations)
    assert counts == [1, 2, 3, 3, 3, 3, 3]


def stub(losses):
    """A `Model` with one weight and the given losses."""
    from segjax.types import Model

    def init(key, batch):
        return {"params": {"w": jax.random.normal(key, (2, 3)), "b": jnp.ones(3)}}

    return Model(init, lambda v, batch, key: (losses(v["params"], batch, key), v), lambda *_: None)


def test_each_step_has_its_own_key_and_the_seed_decides_it():
    model = stub(lambda params, batch, key: {"random": params["w"].sum() * 0 + jax.random.uniform(key)})
    step = make_step(model, optax.sgd(0.1), mesh=data_mesh(1))

    def draws(seed):
        state, _ = create_state(model, optax.sgd(0.1), tiny.batch_of([([], [])]), seed=seed)
        drawn = []
        for _ in range(3):
            state, values = step(state, tiny.batch_of([([], [])]))
            drawn.append(float(values["loss"]))
        return drawn

    assert len(set(draws(0) + draws(1))) == 6
    assert draws(0) == draws(0)


def test_too_many_devices_are_refused():
    with pytest.raises(ValueError, match="devices is 9, but this machine has 8"):
        data_mesh(9)
