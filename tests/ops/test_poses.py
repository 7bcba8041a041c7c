"""Coordinates in boxes, sizes of poses and squares around joints, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from segjax.ops import poses


def boxes_of(rng, n):
    low = rng.uniform(-20, 60, (n, 2))
    return np.concatenate([low, low + rng.uniform(3, 80, (n, 2))], axis=1).astype(np.float32)


def test_the_frame_of_a_box(rng):
    boxes = boxes_of(rng, 6)
    corners = jnp.asarray(np.stack([boxes[:, :2], boxes[:, 2:], (boxes[:, :2] + boxes[:, 2:]) / 2], axis=1))
    each = jnp.asarray(np.repeat(boxes[:, None], 3, axis=1))
    wanted = np.broadcast_to(np.array([[-0.5, -0.5], [0.5, 0.5], [0, 0]]), (6, 3, 2))
    np.testing.assert_allclose(poses.to_frame(corners, each), wanted, atol=1e-6)
    points = jnp.asarray(rng.uniform(-100, 100, (6, 3, 2)).astype(np.float32))
    np.testing.assert_allclose(poses.from_frame(poses.to_frame(points, each), each), points, atol=1e-4)


def test_a_pose_is_as_large_as_its_torso_or_its_extent():
    pose = jnp.array([[[0.0, 10.0], [3.0, 14.0], [-3.0, 18.0]], [[5.0, 5.0], [5.0, 5.0], [5.0, 5.0]]])
    np.testing.assert_allclose(poses.diameter(pose), [10.0, 0.0])  # 6 wide, 8 high
    np.testing.assert_allclose(poses.diameter(pose, torso=(1, 0)), [5.0, 0.0])
    squares = poses.joint_boxes(pose, sigma=0.4, torso=(0, 1))
    np.testing.assert_allclose(squares[0, 1], [2, 13, 4, 15])
    np.testing.assert_allclose(squares[1, 2], [4.5, 4.5, 5.5, 5.5])  # of a pixel at least
    np.testing.assert_allclose(poses.joint_boxes(pose, sigma=0.4)[0, 0], [-2, 8, 2, 12])
    others = poses.joint_boxes(pose, sigma=0.4, reference=pose[::-1])  # the size of the one around the other
    np.testing.assert_allclose(others[:, 0], [[-0.5, 9.5, 0.5, 10.5], [3, 3, 7, 7]])


@pytest.mark.parametrize("side", [4, 7])
def test_crops_are_bilinear_samples_at_the_middles_of_their_pixels(rng, side):
    image = rng.normal(size=(20, 30, 2)).astype(np.float32)
    # Inside by half a pixel, where the border is not an issue, then half outside, where zeros are.
    boxes = np.array([[3.2, 4.1, 15.7, 13.3], [0, 0, 30, 20], [-40, 2, 20, 62]], np.float32)
    found = jax.jit(lambda i, b: poses.crop(i, b, side=side))(jnp.asarray(image), jnp.asarray(boxes))
    assert found.shape == (3, side, side, 2)
    for (x1, y1, x2, y2), patch in zip(boxes, np.asarray(found)):
        xs, ys = ((np.arange(side) + 0.5) / side * (b - a) + a - 0.5 for a, b in ((x1, x2), (y1, y2)))
        grid = np.stack(np.meshgrid(ys, xs, indexing="ij"))
        outside = ((grid < -1) | (grid > np.array([20, 30])[:, None, None])).any(axis=0)
        for channel in range(2):
            wanted = map_coordinates(image[..., channel], grid, order=1, mode="nearest")
            np.testing.assert_allclose(patch[..., channel], np.where(outside, 0, wanted), atol=1e-5)


def test_a_crop_of_all_is_the_image_and_half_its_side_means(rng):
    image = jnp.asarray(rng.normal(size=(8, 8, 3)).astype(np.float32))
    whole = jnp.array([[0.0, 0.0, 8.0, 8.0]])
    np.testing.assert_allclose(poses.crop(image, whole, side=8)[0], image, atol=1e-6)
    means = np.asarray(image).reshape(4, 2, 4, 2, 3).mean((1, 3))
    np.testing.assert_allclose(poses.crop(image, whole, side=4)[0], means, atol=1e-6)
    with pytest.raises(ValueError, match="output_size must be"):
        poses.crop(image, whole, side=0)
