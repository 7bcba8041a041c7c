"""The guided filter against least squares in every window, and means over regions against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import guided
from tests import oracles_resample as oracles


@pytest.mark.parametrize("channels, radius, epsilon", [(1, 1, 1e-2), (3, 2, 1e-3), (3, 9, 1e-2)])
def test_guided_filter(channels, radius, epsilon, rng):
    guide, x = rng.random((7, 9, channels)).astype(np.float32), rng.normal(5, 3, (7, 9, 2)).astype(np.float32)
    ours = jax.jit(lambda g, x: guided.guided_filter(g, x, radius=radius, epsilon=epsilon))(guide, x)
    np.testing.assert_allclose(ours, oracles.guided_filter(guide, x, radius, epsilon), rtol=1e-3, atol=1e-3)


@pytest.fixture
def scene(rng):
    """A guide with one bright half, and the half as a noisy map."""
    half = np.arange(16) >= 8
    guide = np.where(half, 200, 30).astype(np.uint8)[None, :, None].repeat(12, 0).repeat(3, 2)
    return guide, half.astype(np.float32)[None, :, None] + rng.normal(0, 0.2, (12, 16, 1)).astype(np.float32)


def test_the_edge_stays_and_the_noise_goes(scene):
    guide, x = scene
    clean = (np.asarray(guide[..., :1]) > 100).astype(np.float32)
    y = jax.jit(lambda g, x: guided.guided_filter(g, x, radius=3, epsilon=1e-4))(guide, x)
    assert np.abs(y - clean).mean() < 0.5 * np.abs(x - clean).mean() and np.abs(y - clean).max() < 0.35


def test_an_even_guide_leaves_means_of_means(rng):
    """Without edges it is the box filter twice, finite with finite slopes."""
    x = jnp.asarray(rng.normal(size=(6, 7, 1)), jnp.float32)
    guide = jnp.full((6, 7, 3), 0.5)

    def smooth(guide, x):
        return guided.guided_filter(guide, x, radius=1, epsilon=1e-6)

    def box(a):
        padded = np.pad(a, 1, constant_values=np.nan)
        return np.array([[np.nanmean(padded[i : i + 3, j : j + 3]) for j in range(7)] for i in range(6)])

    np.testing.assert_allclose(jax.jit(smooth)(guide, x)[..., 0], box(box(np.asarray(x)[..., 0])), rtol=1e-4, atol=1e-5)
    slopes = jax.jit(jax.grad(lambda *a: jnp.sum(smooth(*a) ** 2), argnums=(0, 1)))(guide, x)
    assert all(np.isfinite(s).all() for s in slopes) and np.asarray(slopes[1]).any()


def test_guided_upsample_finds_the_edge_in_the_image(scene):
    guide, _ = scene
    # The edge lies within a cell of the map, a third from its left.
    wide = np.concatenate([guide[:, :1].repeat(7, 1), guide[:, -1:].repeat(11, 1)], axis=1)
    low = (jnp.arange(6) >= 2).astype(jnp.float32)[None, :, None].repeat(4, 0).at[:, 2].set(2 / 3)
    y = np.asarray(jax.jit(lambda x, g: guided.guided_upsample(x, g, radius=1, epsilon=1e-4))(low, wide))[..., 0]
    assert y.shape == (12, 18)
    assert y[:, 6].max() < 0.15 and y[:, 7].min() > 0.85
    plain = np.asarray(jax.image.resize(low, (12, 18, 1), "bilinear"))
    assert plain[5, 7, 0] < 0.7


def test_guided_upsample_to_the_same_size_is_the_filter(rng):
    guide, x = (
        jnp.asarray(rng.random((2, 6, 7, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=(2, 6, 7, 2)), jnp.float32),
    )

    def upsample(x, guide):
        return guided.guided_upsample(x, guide, radius=2, epsilon=1e-2)

    same = jax.jit(upsample)(x, guide)
    by_filter = jax.jit(lambda x, guide: guided.guided_filter(guide, x, radius=2, epsilon=1e-2))(x, guide)
    np.testing.assert_allclose(same, by_filter, rtol=1e-4, atol=1e-5)
    by_vmap = jax.jit(jax.vmap(upsample))(x, guide)
    np.testing.assert_allclose(by_vmap, same, rtol=1e-4, atol=1e-5)
    assert jax.eval_shape(upsample, x.astype(jnp.bfloat16), guide).dtype == jnp.bfloat16


def test_averaging_down_takes_parts_of_pixels():
    x = jnp.asarray([[0.0], [3], [6]])[None]
    np.testing.assert_allclose(guided._averaged(x, (1, 2))[0, :, 0], [1, 5], rtol=1e-6)


def test_region_means(rng):
    x = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    regions = rng.integers(0, 4, (2, 5, 6)).astype(np.int32)
    regions[0, 0, :2] = -1, 9
    expected = x.copy()
    for image, ids, means in zip(x, regions, expected):
        for i in range(4):
            means[ids == i] = image[ids == i].mean(axis=0)

    def clean(x):
        return guided.region_means(x, jnp.asarray(regions), count=5)

    y, back = jax.vjp(jax.jit(clean), jnp.asarray(x))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y[0, 0, :2], x[0, 0, :2])
    # Averaging is symmetric: it is its own transpose.
    np.testing.assert_allclose(back(jnp.asarray(x))[0], expected, rtol=1e-5, atol=1e-6)
    half = jnp.ones((40, 40, 1), jnp.bfloat16)
    np.testing.assert_array_equal(guided.region_means(half, jnp.zeros((40, 40), jnp.int32), count=1), half)


def test_bad_arguments_are_named():
    x, guide = jnp.zeros((4, 4, 1)), jnp.zeros((4, 4, 3))
    with pytest.raises(ValueError, match="epsilon=0.0 above 0"):
        guided.guided_filter(guide, x, radius=1, epsilon=0.0)
    with pytest.raises(ValueError, match="the guide of 4 x 4 is smaller than the map of 8 x 4"):
        guided.guided_upsample(jnp.zeros((8, 4, 1)), guide)
    with pytest.raises(ValueError, match="count=0 must be at least 1"):
        guided.region_means(x, jnp.zeros((4, 4), jnp.int32), count=0)
