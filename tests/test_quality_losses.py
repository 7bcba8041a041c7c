"""Losses of classes towards a quality, and of distributions, against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax import losses


def test_quality_focal_and_varifocal(rng):
    """By their formulas in double precision, on negatives and on positives."""
    logits = rng.normal(0, 3, 60).astype(np.float32)
    quality = np.where(np.arange(60) % 3 == 0, rng.uniform(0.05, 1, 60), 0).astype(np.float32)
    p, q = 1 / (1 + np.exp(-logits.astype(np.float64))), quality.astype(np.float64)
    entropy = -(q * np.log(p) + (1 - q) * np.log(1 - p))
    given = (jnp.asarray(logits), jnp.asarray(quality))
    np.testing.assert_allclose(losses.quality_focal(*given, beta=1.5), np.abs(q - p) ** 1.5 * entropy, rtol=1e-5)
    weight = np.where(q > 0, q, 0.6 * p**1.5)
    np.testing.assert_allclose(losses.varifocal(*given, alpha=0.6, gamma=1.5), weight * entropy, rtol=1e-5)
    # The weight is held: the slope is that of the cross-entropy, p - q, times the weight.
    slope = jax.grad(lambda x: losses.varifocal(x, given[1], alpha=0.6, gamma=1.5).sum())(given[0])
    np.testing.assert_allclose(slope, weight * (p - q), rtol=1e-4, atol=1e-6)


def test_focal_losses_towards_a_quality_are_finite_far_out():
    for loss in (losses.quality_focal, losses.varifocal):
        x, q = jnp.array([-300.0, 300, 0, 300]), jnp.array([1.0, 0, 0, 1])
        value, slope = loss(x, q), jax.grad(lambda x: loss(x, q).sum())(x)  # noqa: B023
        assert np.isfinite(value).all() and np.isfinite(slope).all()


def test_distribution_focal(rng):
    """Least where the distribution has the value as its mean over two bins; beyond the bins as at the last."""
    logits = rng.normal(0, 2, (6, 5)).astype(np.float32)
    values = np.float32([0, 1.25, 3.9, 4, 7, -2])
    log_p = np.log(np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    expected = [
        -log_p[0, 0],
        -0.75 * log_p[1, 1] - 0.25 * log_p[1, 2],
        -0.1 * log_p[2, 3] - 0.9 * log_p[2, 4],
        -log_p[3, 4],
        -log_p[4, 4],
        -log_p[5, 0],
    ]
    found = losses.distribution_focal(jnp.asarray(logits), jnp.asarray(values))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    best = jnp.log(jnp.array([[1e-9, 0.75, 0.25, 1e-9, 1e-9]]))
    slope = jax.grad(lambda x: losses.distribution_focal(x, jnp.array([1.25])).sum())(best)
    np.testing.assert_allclose(slope, np.zeros((1, 5)), atol=1e-6)
    with pytest.raises(ValueError, match="logits have 1 bin; a value lies between two"):
        losses.distribution_focal(jnp.zeros((3, 1)), jnp.zeros(3))
