"""The few image shapes that a run compiles for, and the order in which an epoch fills them: pure functions.

A bucket is (height, width) in pixels. An image goes to the bucket that shows it largest, is resized to fit inside, and
is padded below and to the right, so that every batch has one of a few shapes and each shape is compiled once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Bucket = tuple[int, int]
"""(height, width) in pixels."""
Sides = int | np.integer | np.ndarray
"""One image's height or width in pixels, or those of many."""


class PlannedBatch(NamedTuple):
    """One batch before anything is read: which images, in which shape."""

    bucket: int
    """Index into the buckets."""
    indices: Int[np.ndarray, "b"]
    """Images of the source; -1 where there is none."""
    repeats: Int[np.ndarray, "b"]
    """How often the image has been used before in this epoch: 0, except where a batch was filled up."""


def check_buckets(buckets: Sequence[Sequence[int]]) -> tuple[Bucket, ...]:
    """`buckets` as a tuple. ValueError unless they are one or more distinct (height, width) pairs of positive sides."""
    checked = tuple((int(height), int(width)) for height, width in buckets)
    if not checked or min(min(bucket) for bucket in checked) < 1 or len(set(checked)) < len(checked):
        raise ValueError(
            f"buckets must be distinct (height, width) pairs of positive pixels, at least one; got {buckets}"
        )
    return checked


def buckets_for(short_side: int, long_side: int, *, steps: int = 2, multiple: int = 32) -> tuple[Bucket, ...]:
    """Buckets in which images keep the size "short side `short_side`, long side at most `long_side`".

    The long sides are `steps` values spaced evenly from `short_side` to `long_side`, each in landscape and portrait;
    the sides are rounded up to `multiple`, the largest stride of the network. `buckets_for(800, 1333)`, the sizes that
    detectors are customarily trained with on COCO, gives 800x800, 800x1344 and 1344x800.

    Args:
        steps: number of long sides. More of them pad less and compile more: 2 * steps - 1 shapes.

    Raises:
        ValueError: where a side, `steps` or `multiple` is not positive, or the short side is longer than the long one.
    """
    if not 1 <= short_side <= long_side or steps < 1 or multiple < 1:
        raise ValueError(
            f"short_side={short_side}, long_side={long_side}, steps={steps} and multiple={multiple} must be positive, "
            "the short side at most the long one"
        )
    long_sides = np.linspace(short_side, long_side, steps) if steps > 1 else np.array([long_side])
    short, *longs = (int(-(-side // multiple) * multiple) for side in (short_side, *long_sides))
    shapes = [(short, long) for long in longs] + [(long, short) for long in longs]
    return tuple(dict.fromkeys(shapes))


def fit(height: int, width: int, bucket: Bucket) -> tuple[int, int, float]:
    """The largest size with the aspect ratio of `height` x `width` inside `bucket`, and the scale that leads to it.

    Returns (new height, new width, scale), in pixels. One side equals the bucket's; the other is rounded down, as
    torchvision's detection transform does, and is at least 1. In integers, so that no rounding error loses a pixel.
    """
    bucket_height, bucket_width = bucket
    if bucket_height * width <= bucket_width * height:
        return bucket_height, max(1, width * bucket_height // height), bucket_height / height
    return max(1, height * bucket_width // width), bucket_width, bucket_width / width


def _scales(height: np.ndarray, width: np.ndarray, buckets: Sequence[Bucket]) -> Float[np.ndarray, "*n k"]:
    sides = np.asarray(check_buckets(buckets), np.float64)
    return np.minimum(sides[:, 0] / height[..., None], sides[:, 1] / width[..., None])


def assign(height: Sides, width: Sides, buckets: Sequence[Bucket]) -> Int[np.ndarray, "*n"]:
    """The bucket of each image: the one that shows it at the largest scale, and of equal ones the smallest.

    Args:
        height, width: of the images, in pixels, of any equal shape `*n` (plain integers give an array of no dimension).

    Returns:
        Indices into `buckets`.
    """
    height, width = np.asarray(height), np.asarray(width)
    scales = _scales(height, width, buckets)
    pixels = np.array([bucket_height * bucket_width for bucket_height, bucket_width in buckets], np.float64)
    largest = scales == scales.max(axis=-1, keepdims=True)
    return np.asarray(np.where(largest, pixels, np.inf).argmin(axis=-1))


def padding_share(height: Sides, width: Sides, buckets: Sequence[Bucket]) -> Float[np.ndarray, "*n"]:
    """The share, in 0..1, of each image's bucket (that of `assign`) that is padding."""
    height, width = np.asarray(height), np.asarray(width)
    scale = _scales(height, width, buckets).max(axis=-1)
    pixels = np.array([bucket_height * bucket_width for bucket_height, bucket_width in buckets], np.float64)
    return np.asarray(1.0 - height * width * scale**2 / pixels[assign(height, width, buckets)])


def steps_per_epoch(bucket_ids: Int[np.ndarray, "n"], *, batch_size: int) -> int:
    """Number of batches of an epoch: each bucket's images over `batch_size`, rounded up."""
    _check_batch_size(batch_size)
    return int(sum(-(-count // batch_size) for count in np.bincount(bucket_ids) if count))


def plan_epoch(bucket_ids: Int[np.ndarray, "n"], *, batch_size: int, seed: int, epoch: int) -> list[PlannedBatch]:
    """The batches of one training epoch, a pure function of its arguments: any epoch can be planned again.

    Images are shuffled over the whole data set and each is used at least once. Where a bucket's images do not divide by
    `batch_size`, its last batch is filled up with the first images of its shuffled order, drawn again (several times
    where a bucket has fewer images than a batch). The order of the batches is shuffled too.

    Args:
        bucket_ids: the bucket of each image, as `assign` gives them.
        seed, epoch: not negative.
    """
    _check_batch_size(batch_size)
    rng = np.random.default_rng([0, seed, epoch])  # the leading 0 keeps these draws apart from those of the samples
    batches = []
    for bucket in np.unique(bucket_ids):
        order = rng.permutation(np.flatnonzero(bucket_ids == bucket))
        slots = -(-len(order) // batch_size) * batch_size
        indices, repeats = np.resize(order, slots), np.arange(slots) // len(order)
        batches += [
            PlannedBatch(int(bucket), indices[start : start + batch_size], repeats[start : start + batch_size])
            for start in range(0, slots, batch_size)
        ]
    return [batches[i] for i in rng.permutation(len(batches))]


def plan_evaluation(bucket_ids: Int[np.ndarray, "n"], *, batch_size: int) -> list[PlannedBatch]:
    """Batches that hold each image exactly once: bucket by bucket, in order, the last of each filled up with -1."""
    _check_batch_size(batch_size)
    batches = []
    for bucket in np.unique(bucket_ids):
        order = np.flatnonzero(bucket_ids == bucket)
        slots = np.full(-(-len(order) // batch_size) * batch_size, -1, order.dtype)
        slots[: len(order)] = order
        batches += [PlannedBatch(int(bucket), row, np.zeros_like(row)) for row in slots.reshape(-1, batch_size)]
    return batches


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
