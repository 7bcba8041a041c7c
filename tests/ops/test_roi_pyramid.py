"""Spatial pyramid pooling of regions, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.roi_pyramid import pyramid_pool

LEVELS = (1, 2, 3, 6)


def pooled(features, box, levels, stride):
    """Bins of the window from floor to ceiling, cut at the map's border; 0 where nothing is left."""
    h, w, c = features.shape
    x1, y1, x2, y2 = np.floor(box / stride + 0.5).astype(int)  # no negative corners here
    height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    bins = []
    for level in levels:
        for i in range(level):
            for j in range(level):
                rows = range(max(y1 + i * height // level, 0), min(y1 - (-(i + 1) * height // level), h))
                columns = range(max(x1 + j * width // level, 0), min(x1 - (-(j + 1) * width // level), w))
                inside = [features[y, x] for y in rows for x in columns]
                bins.append(np.max(inside, axis=0) if inside else np.zeros(c))
    return np.stack(bins)


def test_it_is_the_maximum_of_every_bin(rng):
    features = rng.normal(size=(11, 14, 3)).astype(np.float32)
    corners = np.sort(rng.uniform(0, [[14 * 8, 11 * 8]] * 2, (20, 2, 2)), axis=1).astype(np.float32)
    boxes = np.concatenate([corners.reshape(20, 4), [[8, 8, 8, 8], [90, 60, 200, 200], [150, 150, 160, 160]]])
    boxes = boxes.astype(np.float32)
    pool = jax.jit(lambda *given: pyramid_pool(*given, levels=LEVELS, spatial_scale=1 / 8))
    found = pool(jnp.asarray(features), jnp.asarray(boxes))
    assert found.shape == (23, 50, 3)
    np.testing.assert_array_equal(found, np.stack([pooled(features, box, LEVELS, 8) for box in boxes]))
    # The first bin is the window's maximum, which each finer grid has in one of its bins.
    inside = np.asarray(found)[:20]
    for start, end in ((1, 5), (5, 14), (14, 50)):
        np.testing.assert_array_equal(inside[:, 0], inside[:, start:end].max(axis=1))


@pytest.mark.parametrize("levels", [(), (1, 0)])
def test_levels_without_bins_are_refused(levels):
    with pytest.raises(ValueError, match="levels must be one or more numbers of bins, each 1 or more"):
        pyramid_pool(jnp.zeros((4, 4, 3)), jnp.zeros((1, 4)), levels=levels, spatial_scale=1)
