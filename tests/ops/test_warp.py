"""Regions warped with context, against a loop over pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.warp import warp_regions


def warped(image, box, size, output_size, context):
    """The region as the paper describes it: box and context scaled together, the mean (0) outside the image."""
    x1, y1, x2, y2 = box
    scale = output_size / (output_size - 2 * context)
    middle, half = ((x1 + x2) / 2, (y1 + y2) / 2), (scale * (x2 - x1) / 2, scale * (y2 - y1) / 2)
    result = np.zeros((output_size, output_size, image.shape[-1]))
    for i in range(output_size):
        for j in range(output_size):
            y = middle[1] - half[1] + (i + 0.5) * 2 * half[1] / output_size
            x = middle[0] - half[0] + (j + 0.5) * 2 * half[0] / output_size
            if not (0 <= y <= size[0] and 0 <= x <= size[1]):
                continue
            y, x = np.clip(y - 0.5, 0, size[0] - 1), np.clip(x - 0.5, 0, size[1] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, size[0] - 1), min(left + 1, size[1] - 1)
            above = (left + 1 - x) * image[top, left] + (x - left) * image[top, right]
            below = (left + 1 - x) * image[bottom, left] + (x - left) * image[bottom, right]
            result[i, j] = (top + 1 - y) * above + (y - top) * below
    return result


BOXES = np.array(
    [
        [3.2, 2.1, 9.7, 12.4],
        [0, 0, 17, 13],  # the whole image: context is outside it
        [-4, 5, 6, 30],  # beyond it on two sides
        [12.5, 3, 13.1, 3.4],  # less than a pixel
        [5, 5, 5, 5],
        [100, 100, 120, 130],  # nowhere near it
    ],
    np.float32,
)


@pytest.mark.parametrize("output_size, context", [(12, 2), (7, 0), (9, 3.5)])
def test_it_is_the_papers_geometry(output_size, context, rng):
    canvas = rng.normal(size=(16, 20, 3)).astype(np.float32)  # what is beyond the image must not be seen
    size = np.array([13, 17], np.int32)
    warp = jax.jit(lambda *given: warp_regions(*given, output_size=output_size, context=context))
    found = np.asarray(warp(jnp.asarray(canvas), jnp.asarray(BOXES), jnp.asarray(size)))
    expected = np.stack([warped(canvas.astype(np.float64), box, size, output_size, context) for box in BOXES])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert not found[-1].any() and found[:-1].any(axis=(1, 2, 3)).all()


def test_the_box_fills_the_middle():
    """A white box on black, 16 of 227 pixels of context, aspect ratio not kept."""
    image = np.zeros((300, 300, 1), np.float32)
    image[100:140, 50:250] = 1
    found = warp_regions(
        jnp.asarray(image), jnp.array([[50.0, 100.0, 250.0, 140.0]]), jnp.array([300, 300]), output_size=227, context=16
    )[0, :, :, 0]
    white = np.argwhere(np.asarray(found) > 0.5)
    assert white.min(0).tolist() == [16, 16] and white.max(0).tolist() == [210, 210]


def test_too_much_context_is_refused():
    with pytest.raises(ValueError, match="context is 4; two of them must leave room for the box in 8 pixels"):
        warp_regions(jnp.zeros((4, 4, 3)), jnp.zeros((1, 4)), jnp.array([4, 4]), output_size=8, context=4)
