"""Nearest-neighbour upsampling against its definition, index by index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.resample import upsample_nearest


def nearest(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Output pixel i takes input pixel floor(i * in / out): torch's rule."""
    height, width = x.shape[:2]
    return np.array([[x[i * height // size[0], j * width // size[1]] for j in range(size[1])] for i in range(size[0])])


@pytest.mark.parametrize("before, after", [((3, 4), (6, 8)), ((3, 4), (5, 7)), ((4, 5), (4, 5)), ((2, 3), (9, 4))])
def test_upsample_nearest(before, after, rng):
    x = rng.normal(size=(2, *before, 3)).astype(np.float32)
    expected = np.stack([nearest(image, after) for image in x])
    np.testing.assert_array_equal(upsample_nearest(jnp.asarray(x), after), expected)
    np.testing.assert_array_equal(jax.jit(upsample_nearest, static_argnums=1)(jnp.asarray(x[0]), after), expected[0])


@pytest.mark.parametrize("after", [(6, 8), (5, 7)])
def test_gradient_counts_the_copies(after):
    x = jnp.zeros((3, 4, 1))
    slope = jax.grad(lambda x: upsample_nearest(x, after).sum())(x)
    copies = np.outer(
        np.bincount(np.arange(after[0]) * 3 // after[0]), np.bincount(np.arange(after[1]) * 4 // after[1])
    )
    np.testing.assert_array_equal(slope[..., 0], copies)
