"""Down- and upsampling against their definitions, cell by cell; `tests/parity` has torch's word on the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import resample
from tests import oracles_resample as oracles


def test_block_mean(rng):
    x = rng.normal(size=(2, 6, 9, 2)).astype(np.float32)
    expected = [[x[:, i : i + 3, j : j + 3].sum(axis=(1, 2)) / 9 for j in range(0, 9, 3)] for i in range(0, 6, 3)]
    np.testing.assert_allclose(resample.block_mean(jnp.asarray(x), size=3), np.moveaxis(expected, 2, 0), rtol=1e-5)
    # A sum in bfloat16 would stop at 256.
    ones = resample.block_mean(jnp.ones((64, 64, 1), jnp.bfloat16), size=64)
    assert ones.dtype == jnp.bfloat16 and float(ones[0, 0, 0]) == 1
    with pytest.raises(ValueError, match="6 x 9 does not divide into blocks of size=2"):
        resample.block_mean(jnp.asarray(x), size=2)


def test_strided_and_bed_of_nails(rng):
    x = jnp.asarray(rng.integers(0, 255, (2, 5, 6, 1)), jnp.uint8)
    np.testing.assert_array_equal(resample.strided(x, stride=2), np.asarray(x)[:, ::2, ::2])
    nails = resample.bed_of_nails(x, scale=3)
    assert nails.shape == (2, 15, 18, 1) and nails.dtype == jnp.uint8
    np.testing.assert_array_equal(resample.strided(nails, stride=3), x)
    assert int(nails.astype(jnp.int32).sum()) == int(x.astype(jnp.int32).sum())
    for call in (lambda: resample.strided(x, stride=0), lambda: resample.bed_of_nails(x, scale=0)):
        with pytest.raises(ValueError, match="=0 must be at least 1"):
            call()


@pytest.mark.parametrize("before, after", [((3, 4), (6, 8)), ((3, 4), (5, 7)), ((4, 5), (4, 5)), ((8, 3), (3, 4))])
@pytest.mark.parametrize("exact", [False, True])
def test_nearest(before, after, exact, rng):
    x = rng.normal(size=(2, *before, 3)).astype(np.float32)
    rows, cols = ([int((i + 0.5 * exact) * n / out + 1e-6) for i in range(out)] for n, out in zip(before, after))
    expected = x[:, rows][:, :, cols]
    np.testing.assert_array_equal(resample.nearest(jnp.asarray(x), size=after, exact=exact), expected)
    slope = jax.jit(jax.grad(lambda x: resample.nearest(x, size=after, exact=exact).sum()))(jnp.asarray(x[0]))
    copies = np.outer(np.bincount(rows, minlength=before[0]), np.bincount(cols, minlength=before[1]))
    np.testing.assert_array_equal(slope[..., 0], copies)


def test_nearest_takes_label_maps(rng):
    labels = jnp.asarray(rng.integers(0, 255, (3, 4, 1)), jnp.uint8)
    larger = resample.nearest(labels, size=(6, 8))
    assert larger.dtype == jnp.uint8
    np.testing.assert_array_equal(larger, np.asarray(labels).repeat(2, 0).repeat(2, 1))


# The last has more terms a cell in its transpose than are unrolled.
SIZES = [((4, 5), (8, 15)), ((5, 7), (8, 3)), ((3, 4), (3, 1)), ((1, 2), (5, 50))]


@pytest.mark.parametrize("before, after", SIZES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_interpolation(mode, align_corners, before, after, rng):
    line = {"bilinear": oracles.linear, "bicubic": oracles.cubic}[mode]
    x = rng.normal(size=(2, *before, 3)).astype(np.float32)

    def ours(x):
        return getattr(resample, mode)(x, size=after, align_corners=align_corners)

    y, back = jax.vjp(jax.jit(ours), jnp.asarray(x))
    np.testing.assert_allclose(y, oracles.resize(x, after, line, align_corners), rtol=1e-5, atol=1e-5)
    # The map is linear: its transpose sends a cotangent to what the columns of its matrix say.
    cotangent = rng.normal(size=y.shape).astype(np.float32)
    units = np.eye(before[0] * before[1]).reshape(-1, *before, 1)
    matrix = oracles.resize(units, after, line, align_corners)[..., 0]
    expected = np.einsum("nhw,bhwc->bnc", matrix, cotangent).reshape(x.shape)
    np.testing.assert_allclose(back(jnp.asarray(cotangent))[0], expected, rtol=1e-4, atol=1e-4)


def test_interpolation_in_half_precision_is_rounded_once(rng):
    x = jnp.asarray(rng.normal(size=(1, 3, 5, 2)), jnp.bfloat16)
    exact = resample.bilinear(x.astype(jnp.float32), size=(7, 9))
    np.testing.assert_array_equal(resample.bilinear(x, size=(7, 9)), exact.astype(jnp.bfloat16))


def test_interpolation_under_vmap_and_twice_differentiated(rng):
    x = jnp.asarray(rng.normal(size=(3, 4, 5, 2)), jnp.float32)

    def energy(x):
        return jnp.sum(resample.bilinear(x, size=(9, 10)) ** 2)

    slopes = jax.vmap(jax.grad(energy))(x)
    np.testing.assert_allclose(slopes, jax.grad(energy)(x), rtol=1e-5)
    # The energy is a quadratic form: <gradient, x> is twice its value, so its slope is twice the gradient.
    again = jax.grad(lambda x: jnp.sum(jax.grad(energy)(x) * x))(x)
    np.testing.assert_allclose(again, 2 * np.asarray(slopes), rtol=1e-4, atol=1e-5)


def test_sizes_must_make_sense():
    with pytest.raises(ValueError, match=r"bilinear: size=\(0, 4\) must be a height and a width of at least 1"):
        resample.bilinear(jnp.zeros((2, 2, 1)), size=(0, 4))
