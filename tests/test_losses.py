"""The losses against their formulas, far from zero and at masked or empty places."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from segjax import losses
from segjax.types import IGNORE


@pytest.mark.parametrize("beta", [1.0, 1 / 9])
def test_smooth_l1(beta, rng):
    a, b = rng.normal(0, 2 * beta, (2, 50)).astype(np.float32)
    d = np.abs(a - b).astype(np.float64)
    expected = np.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta)
    assert (d < beta).any() and (d > beta).any()
    np.testing.assert_allclose(
        losses.smooth_l1(jnp.asarray(a), jnp.asarray(b), beta=beta), expected, rtol=1e-5, atol=1e-6
    )


def test_smooth_l1_has_slope_one_far_away():
    slope = jax.grad(lambda x: losses.smooth_l1(x, jnp.float32(0), beta=1 / 9))
    assert float(slope(jnp.float32(5))) == pytest.approx(1) and float(slope(jnp.float32(-1e6))) == pytest.approx(-1)


def test_sigmoid_focal(rng):
    """Equal to optax's, far out too, and so are the gradients."""
    x = jnp.asarray(np.concatenate([rng.normal(0, 4, 50), [-200.0, 200, -200, 200, 0]]).astype(np.float32))
    positive = jnp.asarray(np.arange(55) % 3 == 0)

    def theirs(x, alpha, gamma):
        return optax.losses.sigmoid_focal_loss(x, positive.astype(jnp.float32), alpha=alpha, gamma=gamma)

    for alpha, gamma in ((0.25, 2.0), (0.5, 0.5), (0.7, 0.0)):
        ours = lambda x: losses.sigmoid_focal(x, positive, alpha=alpha, gamma=gamma)  # noqa: B023, E731
        np.testing.assert_allclose(ours(x), theirs(x, alpha, gamma), rtol=1e-5, atol=1e-12)
        found, expected = (jax.grad(lambda x, f=f: f(x).sum())(x) for f in (ours, lambda x: theirs(x, alpha, gamma)))  # noqa: B023
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)
    assert losses.sigmoid_focal(jnp.array([-100.0]), jnp.array([True]))[0] == pytest.approx(25)


def test_sigmoid_cross_entropy(rng):
    x, positive = rng.normal(0, 3, 40).astype(np.float32), rng.random(40) < 0.5
    p = 1 / (1 + np.exp(-x.astype(np.float64)))
    expected = -np.where(positive, np.log(p), np.log(1 - p))
    np.testing.assert_allclose(losses.sigmoid_cross_entropy(jnp.asarray(x), jnp.asarray(positive)), expected, rtol=1e-5)
    far = losses.sigmoid_cross_entropy(jnp.array([1e4, -1e4]), jnp.array([False, True]))
    np.testing.assert_allclose(far, [1e4, 1e4])


def test_softmax_cross_entropy(rng):
    x, labels = rng.normal(0, 3, (20, 5)).astype(np.float32), rng.integers(0, 5, 20)
    logits, columns = jnp.asarray(x), jnp.asarray(labels, jnp.int32)
    p = np.exp(x.astype(np.float64))
    expected = -np.log((p / p.sum(1, keepdims=True))[np.arange(20), labels])
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, columns), expected, rtol=1e-5)
    assert losses.softmax_cross_entropy(logits.astype(jnp.bfloat16), columns).dtype == jnp.float32


def test_masked_places_have_no_influence():
    values, mask = jnp.array([1.0, jnp.nan, 3.0, jnp.inf]), jnp.array([True, False, True, False])
    total, slope = jax.value_and_grad(lambda x: losses.masked_sum(x, mask))(values)
    assert float(total) == 4
    np.testing.assert_array_equal(slope, [1, 0, 1, 0])
    # Through a function that is infinite at a masked place, as encode is for a zero-size box.
    assert np.isfinite(jax.grad(lambda x: losses.masked_sum(x * x, mask))(jnp.array([1.0, 5, 2, 7]))).all()


def test_safe_divide():
    divide = jax.jit(jax.value_and_grad(losses.safe_divide, argnums=(0, 1)))
    value, slopes = divide(jnp.float32(6), jnp.float32(3))
    assert float(value) == 2 and [float(s) for s in slopes] == pytest.approx([1 / 3, -2 / 3])
    value, slopes = divide(jnp.float32(6), jnp.float32(0))
    assert float(value) == 0 and [float(s) for s in slopes] == [0, 0]


CLASSES = 4


def pixels(rng, size=(2, 5, 6)):
    """Logits, labels with ignored pixels, and in NumPy the cross-entropy of each pixel that counts and its class."""
    logits = rng.normal(0, 2, (*size, CLASSES)).astype(np.float32)
    labels = rng.integers(0, CLASSES, size).astype(np.uint8)
    labels[rng.random(size) < 0.2] = IGNORE
    valid = labels != IGNORE
    p = np.exp(logits[valid].astype(np.float64))
    p = (p / p.sum(axis=1, keepdims=True))[np.arange(valid.sum()), labels[valid]]
    return jnp.asarray(logits), jnp.asarray(labels), -np.log(p), labels[valid]


WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0], np.float32)
PIXEL_LOSSES = {
    "cross_entropy": losses.pixel_cross_entropy,
    "weighted": lambda x, y: losses.pixel_cross_entropy(x, y, class_weights=jnp.asarray(WEIGHTS)),
    "focal": losses.pixel_focal,
    "hardest": lambda x, y: losses.hardest_pixels(x, y, keep=0.3),
    "dice": losses.dice,
}


def test_pixel_cross_entropy(rng):
    logits, labels, values, classes = pixels(rng)
    assert float(losses.pixel_cross_entropy(logits, labels)) == pytest.approx(values.mean(), rel=1e-5)
    weighted = losses.pixel_cross_entropy(logits, labels, class_weights=jnp.asarray(WEIGHTS))
    assert float(weighted) == pytest.approx(np.average(values, weights=WEIGHTS[classes]), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_pixel_focal(gamma, rng):
    logits, labels, values, classes = pixels(rng)
    expected = (1 - np.exp(-values)) ** gamma * values

    @jax.jit
    @jax.value_and_grad
    def focal(x, weights):
        return losses.pixel_focal(x, labels, gamma=gamma, class_weights=weights)

    even, _ = focal(logits, jnp.ones(CLASSES))
    weighted, _ = focal(logits, jnp.asarray(WEIGHTS))
    assert float(even) == pytest.approx(expected.mean(), rel=1e-5)
    assert float(weighted) == pytest.approx(np.average(expected, weights=WEIGHTS[classes]), rel=1e-5)
    assert np.isfinite(focal(logits * 1e4, jnp.ones(CLASSES))[1]).all()


def test_dice(rng):
    logits, labels, _, _ = pixels(rng)
    x, y = np.asarray(logits, np.float64), np.asarray(labels)
    p = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    by_class = []
    for c in range(CLASSES):
        predicted, there = p[..., c][y != IGNORE], (y == c)[y != IGNORE]
        by_class.append(1 - (2 * predicted[there].sum() + 2 * 0.7) / (predicted.sum() + there.sum() + 2 * 0.7))
    assert float(losses.dice(logits, labels, smooth=0.7)) == pytest.approx(np.mean(by_class), rel=1e-5)
    perfect = 50.0 * jax.nn.one_hot(labels.astype(jnp.int32), CLASSES)
    assert float(losses.dice(perfect, labels)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("keep", [1e-6, 0.3, 0.75, 1.0])
def test_hardest_pixels(keep, rng):
    logits, labels, values, _ = pixels(rng)
    kept = max(round(keep * len(values)), 1)
    loss, slope = jax.jit(jax.value_and_grad(lambda x: losses.hardest_pixels(x, labels, keep=keep)))(logits)
    assert float(loss) == pytest.approx(np.sort(values)[-kept:].mean(), rel=1e-5)
    assert (np.abs(np.asarray(slope)).max(axis=-1) > 0).sum() == kept


def test_hardest_pixels_that_are_equal_share_their_place():
    """One pixel harder than five equal ones, of which two more are kept; one is easy."""
    logits = jnp.asarray([[[4.0, 0], [1, 0], [1, 0], [1, 0], [1, 0], [1, 0], [-9, 0]]])
    labels = jnp.ones((1, 7), jnp.uint8)
    hard, equal = np.log1p(np.exp([4.0, 1.0]))
    loss, slope = jax.jit(jax.value_and_grad(lambda x: losses.hardest_pixels(x, labels, keep=3 / 7)))(logits)
    assert float(loss) == pytest.approx((hard + 2 * equal) / 3, rel=1e-6)
    sigmoid = 1 / (1 + np.exp(-np.array([4.0, 1.0])))
    expected = np.array([sigmoid[0], *[sigmoid[1] * 2 / 5] * 5, 0]) / 3
    np.testing.assert_allclose(slope[0, :, 0], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", PIXEL_LOSSES)
def test_ignored_pixels_have_no_influence(name, rng):
    loss = jax.jit(jax.value_and_grad(PIXEL_LOSSES[name]))
    logits, labels, _, _ = pixels(rng)
    value, slope = loss(logits, labels)
    ignored = np.asarray(labels) == IGNORE
    again, slope_again = loss(jnp.where(jnp.asarray(ignored)[..., None], jnp.nan, logits), labels)
    assert float(again) == float(value) > 0
    np.testing.assert_array_equal(slope_again, slope)
    assert not np.asarray(slope)[ignored].any() and np.asarray(slope)[~ignored].any()
    nothing, slope = loss(logits, jnp.full_like(labels, IGNORE))
    assert float(nothing) == 0 and not np.asarray(slope).any()


@pytest.mark.parametrize("name", PIXEL_LOSSES)
def test_pixel_losses_are_computed_in_float32_whatever_the_types(name, rng):
    loss = jax.jit(PIXEL_LOSSES[name])
    logits, labels, _, _ = pixels(rng)
    half = logits.astype(jnp.bfloat16)
    value = loss(half, labels.astype(jnp.int32))
    assert value.dtype == jnp.float32 and float(value) == float(loss(half.astype(jnp.float32), labels))
    # One image has no batch axis.
    assert np.isfinite(jax.jit(PIXEL_LOSSES[name])(logits[0], labels[0]))


@pytest.mark.parametrize("name", PIXEL_LOSSES)
def test_a_label_that_is_no_class_is_noticed(name, rng):
    logits, labels, _, _ = pixels(rng)
    assert np.isnan(jax.jit(PIXEL_LOSSES[name])(logits, labels.at[0, 0, 0].set(CLASSES)))


def test_pixel_losses_refuse_what_makes_no_sense():
    logits, labels = jnp.zeros((2, 2, 1)), jnp.zeros((2, 2), jnp.uint8)
    with pytest.raises(ValueError, match="logits have 1 class"):
        losses.pixel_focal(logits, labels)
    with pytest.raises(ValueError, match="smooth=0.0 must be above 0"):
        losses.dice(logits, labels, smooth=0.0)
    with pytest.raises(ValueError, match="keep=0.0 must be above 0 and at most 1"):
        losses.hardest_pixels(logits, labels, keep=0.0)
