"""SVMs by hard negative mining, against scikit-learn's on all regions at once; ridge regression against its Ridge."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

from segjax.fitting.linear_svm import NEVER, Miner, SVMSettings, feature_scale
from segjax.fitting.ridge import ridge

SETTINGS = SVMSettings(c=0.05, first=30, retrain=40, few=0, passes=20, block=256)


@pytest.fixture(scope="module")
def regions():
    """(features [m f], positives of each of three classes, negative [m 3]); the last class has no positive."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(3000, 12)).astype(np.float32)
    positives = [np.arange(60), np.arange(60, 100)]
    features[positives[0], 0] += 3
    features[positives[1], 1] += 2
    negative = np.ones((3000, 3), bool)
    negative[:100] = False
    negative[100:300, 0] = False  # near an object: neither
    return features.astype(np.float16), [*positives, np.arange(0)], negative


def mined(regions, settings=SETTINGS, scale=0.7):
    miner = Miner(*regions, settings, scale=scale)
    svms = miner.first()
    while not svms.finished(settings):
        svms = miner.mined(svms)
    return svms


def test_mining_ends_at_the_solution_over_all_regions(regions):
    features, positives, negative = regions
    svms = mined(regions)
    assert svms.found == 0 and 1 < svms.passes < SETTINGS.passes
    x = features.astype(np.float64)
    for c in range(2):
        rows = np.concatenate([positives[c], np.flatnonzero(negative[:, c])])
        assert 0 < len(svms.negatives[c]) < 0.6 * negative[:, c].sum()  # few of them are ever held
        whole = LinearSVC(
            C=0.05, loss="hinge", class_weight={1: 2.0}, intercept_scaling=10.0, max_iter=200_000, tol=1e-6
        ).fit(0.7 * x[rows], (np.arange(len(rows)) < len(positives[c])).astype(int))
        margins, expected = x @ svms.kernel[:, c] + svms.bias[c], whole.decision_function(0.7 * x)
        np.testing.assert_allclose(margins, expected, atol=0.03)
        assert np.mean((margins > 0) == (expected > 0)) > 0.995


def test_a_pass_begins_where_the_last_one_ended(regions):
    """The state between passes is all there is: another miner goes on from it."""
    miner = Miner(*regions, SETTINGS)
    svms = miner.mined(miner.mined(miner.first()))
    again = Miner(*regions, SETTINGS).mined(Miner(*regions, SETTINGS).mined(Miner(*regions, SETTINGS).first()))
    np.testing.assert_array_equal(svms.kernel, again.kernel)
    assert all(np.array_equal(a, b) for a, b in zip(svms.negatives, again.negatives))


def test_a_class_without_examples_never_says_so(regions):
    svms = mined(regions, dataclasses.replace(SETTINGS, passes=1))
    assert svms.bias[2] == NEVER and not svms.kernel[:, 2].any() and not len(svms.negatives[2])
    assert svms.passes == 1  # the most that were asked for


def test_a_class_without_negatives_is_refused(regions):
    features, positives, negative = regions
    with pytest.raises(ValueError, match="no region is a negative of class 1: give more proposals"):
        Miner(features, positives, negative & [[True, False, True]], SETTINGS).first()


def test_fits_that_stop_short_are_counted(regions):
    svms = Miner(*regions, dataclasses.replace(SETTINGS, iterations=1)).first()
    assert svms.short == 2 and Miner(*regions, SETTINGS).first().short == 0


def test_whoever_waits_sees_classes_and_blocks_and_may_end_it(regions):
    calls = []
    miner = Miner(*regions, SETTINGS, watch=lambda: calls.append(0))
    svms = miner.first()
    assert len(calls) == 3
    miner.mined(svms)
    assert len(calls) - 3 == miner.steps == 12

    def end():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Miner(*regions, SETTINGS, watch=end).mined(svms)


def test_features_are_scaled_to_a_norm(rng):
    features = rng.normal(size=(50, 7)).astype(np.float16)
    scale = feature_scale(features, 20.0)
    assert np.linalg.norm(scale * features.astype(np.float64), axis=1).mean() == pytest.approx(20, rel=1e-3)
    assert feature_scale(np.zeros((3, 2)), 20.0) == feature_scale(np.zeros((0, 2)), 20.0) == 1


@pytest.mark.parametrize("examples", [15, 200])
def test_ridge_is_scikit_learns(examples, rng):
    """With fewer examples than features, and with more."""
    x = rng.normal(loc=1.0, size=(examples, 40)).astype(np.float32)
    y = x @ rng.normal(size=(40, 4)) + 3 + rng.normal(size=(examples, 4))
    kernel, bias = ridge(x, y.astype(np.float32), regularization=10.0)
    expected = Ridge(alpha=10.0).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(kernel, expected.coef_.T, atol=1e-4)
    np.testing.assert_allclose(bias, expected.intercept_, atol=1e-3)


@pytest.mark.parametrize("examples", [15, 200])
def test_ridge_of_rows_by_blocks_is_that_of_all_at_once(examples, rng):
    """Scaled as they are read; equal to scikit-learn's on the scaled rows."""
    x = rng.normal(loc=1.0, size=(300, 40)).astype(np.float16)
    rows, y = rng.permutation(300)[:examples], rng.normal(size=(examples, 4)).astype(np.float32)
    kernel, bias = ridge(x, y, rows=rows, scale=0.5, regularization=3.0, block=32)
    expected = Ridge(alpha=3.0).fit(0.5 * x[rows].astype(np.float64), y)
    np.testing.assert_allclose(kernel, expected.coef_.T, atol=1e-4)
    np.testing.assert_allclose(bias, expected.intercept_, atol=1e-4)
