"""Letterboxed images resized and mirrored, each by its own size, against OpenCV on the image alone."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import letterbox

SIZES = jnp.array([[20, 30], [17, 9], [1, 1]])
NEW = jnp.array([[33, 21], [40, 40], [5, 3]])


@pytest.fixture
def x(rng):
    """Three images, and values that must not be seen beside them."""
    x = np.full((3, 20, 30, 4), 1e6, np.float32)
    for image, (h, w) in zip(x, SIZES.tolist()):
        image[:h, :w] = rng.normal(size=(h, w, 4))
    return jnp.asarray(x)


@pytest.mark.parametrize("jit", [False, True])
def test_each_image_is_resized_as_if_alone(x, jit):
    resize = functools.partial(letterbox.resize, canvas=(40, 48))
    out = np.asarray((jax.jit(resize) if jit else resize)(x, SIZES, NEW))
    assert out.shape == (3, 40, 48, 4)
    for image, found, (h, w), (h2, w2) in zip(np.asarray(x), out, SIZES.tolist(), NEW.tolist()):
        expected = cv2.resize(image[:h, :w], (w2, h2), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(found[:h2, :w2], expected, atol=1e-4)
        assert abs(found).max() < 10, "nothing from beside the image"


def test_strips_make_up_the_whole(x):
    whole = letterbox.resize(x, SIZES, NEW, canvas=(40, 48))
    strips = [letterbox.resize(x, SIZES, NEW, canvas=(8, 48), first_row=row) for row in range(0, 40, 8)]
    np.testing.assert_array_equal(np.concatenate(strips, axis=1), whole)


def test_an_image_of_its_own_size_is_as_it_was(x):
    out = letterbox.resize(x, SIZES, SIZES, canvas=(20, 30))
    for image, found, (h, w) in zip(np.asarray(x), np.asarray(out), SIZES.tolist()):
        np.testing.assert_array_equal(found[:h, :w], image[:h, :w])


def test_gradients_stay_inside_the_image(x):
    gradient = jax.grad(lambda x: letterbox.resize(x, SIZES, NEW, canvas=(40, 48)).sum())(x)
    assert np.isfinite(gradient).all()
    for image, (h, w) in zip(np.asarray(gradient), SIZES.tolist()):
        assert (image[:h, :w] != 0).all()
        assert not image[h:].any() and not image[:, w:].any()


def test_mirror_turns_each_image_within_its_width(x):
    out = np.asarray(letterbox.mirror(x, SIZES))
    for image, found, (_, w) in zip(np.asarray(x), np.asarray(out), SIZES.tolist()):
        np.testing.assert_array_equal(found[:, :w], image[:, :w][:, ::-1])
        np.testing.assert_array_equal(found[:, w:], image[:, w:])
    np.testing.assert_array_equal(letterbox.mirror(jnp.asarray(out), SIZES), x)
