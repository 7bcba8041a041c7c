"""Poses as vectors: coordinates in the frame of a box, the size of a pose, and the boxes around its joints.

DeepPose (Toshev and Szegedy 2014, section 3). Points are (x, y) in pixels, boxes `xyxy`. Written for one image.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from segjax.ops.roi import roi_align


def to_frame(points: Float[Array, "*n 2"], boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 2"]:
    """N(y; b) of section 3: the centre of the box is (0, 0), and its corners are (-1/2, -1/2) and (1/2, 1/2).

    The boxes must have an area.
    """
    return (points - (boxes[..., :2] + boxes[..., 2:]) / 2) / (boxes[..., 2:] - boxes[..., :2])


def from_frame(points: Float[Array, "*n 2"], boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 2"]:
    """The points in pixels that `to_frame` took there."""
    return points * (boxes[..., 2:] - boxes[..., :2]) + (boxes[..., :2] + boxes[..., 2:]) / 2


def diameter(pose: Float[Array, "*b k 2"], *, torso: tuple[int, int] | None = None) -> Float[Array, "*b"]:
    """diam(y), the size of a pose in pixels.

    Args:
        pose: the joints.
        torso: two joints on opposite sides of the torso, whose distance it is (the paper's: the left shoulder and the
            right hip). Without, for skeletons that have none, the diagonal of the box around all joints.
    """
    if torso is not None:
        return jnp.linalg.norm(pose[..., torso[0], :] - pose[..., torso[1], :], axis=-1)
    return jnp.linalg.norm(pose.max(axis=-2) - pose.min(axis=-2), axis=-1)


def joint_boxes(
    pose: Float[Array, "*b k 2"],
    *,
    sigma: float,
    torso: tuple[int, int] | None = None,
    reference: Float[Array, "*b k 2"] | None = None,
) -> Float[Array, "*b k 4"]:
    """The square around each joint, of side `sigma` times the pose's `diameter` (section 3.2), of a pixel at least.

    A pose that has shrunk to a point would have no squares.

    Args:
        pose: the joints that the squares are around.
        sigma: side of the squares in diameters.
        torso: see `diameter`.
        reference: the pose whose diameter it is, where `pose` itself, displaced at random (equation 7), would be too
            large on average.
    """
    measured = pose if reference is None else reference
    half = jnp.maximum(sigma * diameter(measured, torso=torso), 1.0)[..., None, None] / 2
    return jnp.concatenate([pose - half, pose + half], axis=-1)


def crop(image: Float[Array, "h w c"], boxes: Float[Array, "n 4"], *, side: int) -> Float[Array, "n side side c"]:
    """What each box shows of the image, `side` x `side` pixels, bilinearly with half-pixel centres.

    Zero outside, but for samples up to half a pixel beyond the image, which show its border (as in `roi_align`). There
    is one sample for each pixel of the result: a box of twice the side gives means of 2x2 pixels, one of more leaves
    pixels out. The boxes get no gradient.

    Raises:
        ValueError: side is below 1.
    """
    return roi_align(image, boxes, output_size=side, spatial_scale=1, sampling_ratio=1, aligned=True)
