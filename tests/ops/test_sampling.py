import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from segjax.ops import sampling

sample = jax.jit(sampling.sample_balanced, static_argnames=("count", "positive_fraction"))


def status_of(rng, positives, negatives, ignored):
    return jnp.asarray(rng.permutation(np.repeat([1, 0, -1], [positives, negatives, ignored])), jnp.int32)


def check(samples, status, count, positive_fraction):
    """The counts of torchvision's sampler, the order, and that nothing is drawn twice or against its status."""
    status = np.asarray(status)
    indices, positive, valid = (np.asarray(field) for field in samples)
    positives = min((status == 1).sum(), int(count * positive_fraction))
    negatives = min((status == 0).sum(), count - positives)
    np.testing.assert_array_equal(positive, np.arange(count) < positives)
    np.testing.assert_array_equal(valid, np.arange(count) < positives + negatives)
    np.testing.assert_array_equal(status[indices[valid]], positive[valid])
    assert len(set(indices[valid].tolist())) == valid.sum()
    assert (indices[~valid] == 0).all()


@pytest.mark.parametrize(
    ("positives", "negatives", "ignored"),
    [(0, 0, 50), (0, 50, 0), (50, 0, 0), (3, 40, 7), (30, 5, 15), (5, 5, 40), (8, 8, 34), (9, 41, 0), (0, 3, 47)],
)
@pytest.mark.parametrize("fraction", [0.5, 0.25, 0.3, 0.0, 1.0])
def test_counts_are_those_of_torchvision(positives, negatives, ignored, fraction, rng, key):
    status = status_of(rng, positives, negatives, ignored)
    check(sample(key, status, count=16, positive_fraction=fraction), status, 16, fraction)


@pytest.mark.parametrize("positives", [1, 15, 63, 64, 65, 66, 200, 1999])
def test_large_masks_use_a_pool_of_candidates(positives, rng, key):
    # count=16 gives a pool of 64 ranks: the numbers lie on both sides of it.
    status = status_of(rng, positives, 2000 - positives, 1)
    many = jax.jit(
        jax.vmap(functools.partial(sampling.sample_balanced, count=16, positive_fraction=0.5), in_axes=(0, None))
    )
    drawn = many(jax.random.split(key, 20), status)
    for i in range(20):
        check(jax.tree.map(lambda x: x[i], drawn), status, 16, 0.5)  # noqa: B023


def test_everything_can_be_asked_for(rng, key):
    status = status_of(rng, 7, 20, 3)
    drawn = sample(key, status, count=60, positive_fraction=0.5)
    assert set(np.asarray(drawn.indices[drawn.valid]).tolist()) == set(np.flatnonzero(status >= 0).tolist())


@pytest.mark.parametrize(("n", "eligible"), [(40, 40), (300, 50), (300, 150)])
def test_each_index_is_equally_likely(n, eligible, rng, key):
    """Also in pairs with its successor, which a draw that favours neighbours would fail."""
    status = status_of(rng, 0, eligible, n - eligible)
    draws = 4000
    many = jax.jit(
        jax.vmap(functools.partial(sampling.sample_balanced, count=8, positive_fraction=0.5), in_axes=(0, None))
    )
    drawn = np.asarray(many(jax.random.split(key, draws), status).indices)
    members = np.flatnonzero(np.asarray(status) == 0)
    hits = (drawn[:, :, None] == members).any(axis=1)
    assert (hits.sum(axis=1) == 8).all()
    # Without replacement the counts vary less than independent draws: by (eligible - 8) / (eligible - 1).
    shrink = (eligible - 8) / (eligible - 1)
    for counts, expected in (
        (hits.sum(axis=0), draws * 8 / eligible),
        (
            (drawn[:, :1] == members).sum(axis=0) / np.sqrt(shrink) + (1 - 1 / np.sqrt(shrink)) * draws / eligible,
            draws / eligible,
        ),
    ):
        statistic = ((counts - expected) ** 2 / expected).sum() / shrink
        assert 1e-3 < scipy.stats.chi2.sf(statistic, eligible - 1) < 1 - 1e-3
    neighbours = (hits & np.roll(hits, 1, axis=1)).sum()
    mean = draws * eligible * (8 / eligible) * (7 / (eligible - 1))
    assert abs(neighbours - mean) < 4 * np.sqrt(mean)


def test_reproducible_and_dependent_on_the_key(rng, key):
    status = status_of(rng, 20, 200, 0)
    first, again = (sample(key, status, count=16, positive_fraction=0.5) for _ in range(2))
    chex.assert_trees_all_equal(first, again)
    other = sample(jax.random.key(1), status, count=16, positive_fraction=0.5)
    assert (first.indices != other.indices).any()


def test_no_anchors_at_all(key):
    drawn = sample(key, jnp.zeros(0, jnp.int32), count=4, positive_fraction=0.5)
    assert not drawn.valid.any()


@pytest.mark.parametrize("options", [{"count": 0, "positive_fraction": 0.5}, {"count": 4, "positive_fraction": 1.5}])
def test_bad_arguments_are_named(options, key):
    with pytest.raises(ValueError, match=r"count=0|positive_fraction=1\.5"):
        sampling.sample_balanced(key, jnp.zeros(4, jnp.int32), **options)


def hardest_by_loop(values, candidates, count):
    """One after the other: the largest left, NaN before all, of equal ones the first."""
    left, taken = [i for i in range(len(values)) if candidates[i]], np.zeros(len(values), bool)
    while left and taken.sum() < count:
        best = max(left, key=lambda i: (np.inf if np.isnan(values[i]) else values[i], np.isnan(values[i]), -i))
        taken[best] = True
        left.remove(best)
    return taken


@pytest.mark.parametrize("count", [0, 1, 7, 20, 99])
def test_hardest_equals_the_loop(count, rng):
    """Values of a few kinds, so that most are equal to others; more are wanted than there are, at last."""
    values = rng.integers(0, 4, (5, 40)).astype(np.float32)
    values[1, 3], values[2] = np.inf, 1.0
    values[3, 5:9] = -np.inf
    values[4, 11] = values[4, 30] = np.nan
    candidates = rng.uniform(size=(5, 40)) < 0.6
    candidates[4, 30] = True
    found = jax.jit(jax.vmap(sampling.hardest, in_axes=(0, 0, None)))(
        jnp.asarray(values), jnp.asarray(candidates), jnp.int32(count)
    )
    for i in range(5):
        np.testing.assert_array_equal(found[i], hardest_by_loop(values[i], candidates[i], count))
        assert found[i].sum() == min(count, candidates[i].sum())
