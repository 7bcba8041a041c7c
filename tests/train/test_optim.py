"""Optimisers against their published formulas in NumPy, learning rates at the steps where they turn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Optim
from train.optim import moving_average, optimizer, schedule

PLAIN = Optim(lr=0.1, schedule="constant", warmup_steps=0)


@pytest.fixture(autouse=True)
def promotion():
    """optax takes floats to the power of integers, and counts steps in them."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def params(rng):
    shapes = {"conv/kernel": (3, 3, 2, 4), "dense/kernel": (5, 4), "norm/scale": (4,), "dense/bias": (4,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def trained(optim, params, grads, steps=100):
    """Parameters after a step with each of `grads`."""
    transform = optimizer(optim, steps)
    now = jax.tree.map(jnp.asarray, params)
    state = transform.init(now)
    for grad in grads:
        updates, state = transform.update(grad, state, now)
        now = jax.tree.map(jnp.add, now, updates)
    return jax.device_get(now)


def test_sgd_is_torchs(rng, params):
    """torch.optim.SGD: g += wd * p; buf = momentum * buf + g; p -= lr * buf. The first buf is g."""
    grads = [{k: rng.normal(size=p.shape).astype(np.float32) for k, p in params.items()} for _ in range(4)]
    found = trained(dataclasses.replace(PLAIN, momentum=0.9, weight_decay=0.05), params, grads)
    for name, p in params.items():
        p, buffer = p.astype(np.float64), 0.0
        for grad in grads:
            g = grad[name] + (0.05 * p if p.ndim > 1 else 0.0)
            buffer = 0.9 * buffer + g
            p = p - 0.1 * buffer
        np.testing.assert_allclose(found[name], p, rtol=1e-4, atol=1e-5)


def test_adamw_is_the_papers(rng, params):
    """Loshchilov and Hutter 2019, algorithm 2, with the decay multiplied by the rate as torch and optax have it."""
    grads = [{k: rng.normal(size=p.shape).astype(np.float32) for k, p in params.items()} for _ in range(4)]
    found = trained(dataclasses.replace(PLAIN, name="adamw", momentum=0.8, weight_decay=0.05), params, grads)
    for name, p in params.items():
        p, m, v = p.astype(np.float64), 0.0, 0.0
        for t, grad in enumerate(grads, start=1):
            m, v = 0.8 * m + 0.2 * grad[name], 0.999 * v + 0.001 * grad[name].astype(np.float64) ** 2
            step = m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            p = p - 0.1 * (step + (0.05 * p if p.ndim > 1 else 0.0))
        np.testing.assert_allclose(found[name], p, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_spares_norms_and_biases(name, params):
    nothing = [jax.tree.map(np.zeros_like, params)] * 3
    found = trained(dataclasses.replace(PLAIN, name=name, weight_decay=0.1), params, nothing)
    for path in params:
        if path.endswith("kernel"):
            assert (np.abs(found[path]) < np.abs(params[path])).all()
        else:
            np.testing.assert_array_equal(found[path], params[path])


def test_clipping_keeps_the_direction(params):
    grads = jax.tree.map(lambda p: 100 * p, params)
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads.values()))
    optim = dataclasses.replace(PLAIN, momentum=0.0, weight_decay=0.0, clip_norm=2.0)
    found = trained(optim, params, [grads])
    for name, p in params.items():
        np.testing.assert_allclose(found[name], p - 0.1 * grads[name] * 2 / norm, rtol=1e-4, atol=1e-6)
    small = jax.tree.map(lambda p: 1e-3 * p, params)
    found = trained(optim, params, [small])
    for name, p in params.items():
        np.testing.assert_allclose(found[name], p - 0.1 * small[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_factors_are_rates_by_path(name, rng, params):
    """A run with the factor is one with that rate; whole names count, and the longest of those that fit."""
    grads = [{k: rng.normal(size=p.shape).astype(np.float32) for k, p in params.items()} for _ in range(3)]
    plain = dataclasses.replace(PLAIN, name=name, weight_decay=0.05)
    factors = (("conv", 0.1), ("dense", 3.0), ("dense/bias", 0.5))
    found = trained(dataclasses.replace(plain, factors=factors), params, grads)
    own = {"conv/kernel": 0.1, "dense/kernel": 3.0, "dense/bias": 0.5, "norm/scale": 1.0}
    for path, factor in own.items():
        expected = trained(dataclasses.replace(plain, lr=factor * plain.lr), params, grads)[path]
        np.testing.assert_allclose(found[path], expected, rtol=1e-5, atol=1e-6)


def test_factors_of_nothing_are_refused(params):
    """Neither half a name nor a part that is frozen, which the optimiser never sees."""
    nested = {"conv": {"kernel": params["conv/kernel"]}, "dense": {"bias": params["dense/bias"]}}
    optimizer(dataclasses.replace(PLAIN, factors=(("conv", 0.1),)), 9).init(nested)
    for given in (params, nested):
        with pytest.raises(
            ValueError, match="names 'con', where no parameter is trained; there are conv/kernel, dense/"
        ):
            optimizer(dataclasses.replace(PLAIN, factors=(("dense", 2.0), ("con", 0.1))), 9).init(given)


def rates(steps=100, **changes):
    rate = schedule(Optim(lr=0.1, warmup_steps=10, **changes), steps)
    return np.array([float(rate(n)) for n in range(steps + 1)])


@pytest.mark.parametrize("name", ["step", "cosine", "constant"])
def test_warm_up_is_linear_from_a_thousandth(name):
    rate = rates(schedule=name)
    np.testing.assert_allclose(rate[:11], 1e-4 + (0.1 - 1e-4) * np.arange(11) / 10, rtol=1e-4)


def test_step_schedule_divides_by_ten_at_its_milestones():
    rate = rates(schedule="step", milestones=(0.5, 0.8))
    np.testing.assert_allclose(rate[[10, 49, 50, 79, 80, 100]], [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-5)
    same = rates(schedule="step", milestones=(0.5, 0.501))
    np.testing.assert_allclose(same[[49, 50]], [0.1, 0.001], rtol=1e-5)  # two at one step count twice


def test_cosine_and_constant_schedules():
    rate = rates(schedule="cosine")
    np.testing.assert_allclose(rate[[10, 55, 100]], [0.1, 0.05, 0.0], atol=1e-6)
    np.testing.assert_allclose(rate[10:], 0.05 * (1 + np.cos(np.pi * np.arange(91) / 90)), atol=1e-6)
    np.testing.assert_allclose(rates(schedule="constant")[10:], 0.1, rtol=1e-6)


def test_a_run_shorter_than_its_warm_up():
    rate = rates(steps=4, schedule="cosine")
    assert np.isfinite(rate).all() and (np.diff(rate) > 0).all() and rate[-1] == pytest.approx(0.1)


def test_moving_average_formula():
    update = moving_average(0.9)
    average, params = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, -2.0])}
    for step, decay in ((0, 0.1), (8, 0.5), (500, 0.9)):
        found = update(average, params, jnp.int32(step))["w"]
        np.testing.assert_allclose(found, decay * np.array([1, 2]) + (1 - decay) * np.array([3, -2]), rtol=1e-6)
