"""Semantic segmentation of single images of any size: whole, in tiles, or averaged over scales and mirror images.

All three take prediction functions and know no model. `predict_image` and `tiled` take a function of (images [b h w 3],
sizes [b 2]), of a `Model` that is `functools.partial(jax.jit(model.predict), variables)`. `multi_scale` takes and gives
functions of the signature of `Model.predict`, so that the evaluator and the other two can have what it makes.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from segjax.ops import letterbox
from segjax.types import SegmentationMap, Variables

PredictImages = Callable[[np.ndarray, np.ndarray], SegmentationMap]
"""(images [b h w 3], sizes [b 2]) -> a map of each."""
Predict = Callable[..., SegmentationMap]
"""(variables, images [b h w 3], sizes [b 2]) -> a map of each: `Model.predict`."""


def predict_image(
    predict: PredictImages,
    image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"],
    *,
    multiple: int = 32,
) -> SegmentationMap:
    """The map [h w c] of one image, which is padded below and to the right to whole strides and the result cut back.

    Args:
        predict: Takes images and sizes. Jitted, it is compiled once for each padded size.
        image: Of at least one pixel.
        multiple: What the network wants of height and width: its largest stride. `ValueError` below 1.
    """
    _check("multiple", multiple)
    height, width = image.shape[:2]
    canvas = np.zeros((1, _whole(height, multiple), _whole(width, multiple), 3), image.dtype)
    canvas[0, :height, :width] = image
    found = predict(canvas, np.array([[height, width]], np.int32))
    return SegmentationMap(found.logits[0, :height, :width])


def tiled(
    predict: PredictImages,
    image: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"],
    *,
    tile: int,
    overlap: int,
    multiple: int = 32,
    batch_size: int = 1,
) -> UInt8[np.ndarray, "h w"]:
    """The classes of the pixels of an image of any size, in the device memory of one batch of tiles.

    Tiles are squares on a grid of whole strides. Where two overlap, each pixel is taken from the one in which it lies
    further from the border: of a network that sees no further than `overlap` / 2 pixels, and has `multiple` as its
    stride, this is exactly what it says of the whole image. (Blending would be no closer for other networks, would
    differ for these, and needs the logits of the whole image in memory.)

    Args:
        predict: Takes `batch_size` tiles and sizes. Jitted, it is compiled once, whatever the images' sizes.
        image: May be a memory map: tiles are cut from it one batch at a time.
        tile: Side of a tile in pixels, a multiple of `multiple`.
        overlap: Least overlap of two tiles in pixels, below `tile`; more where strides demand it.
        multiple: The largest stride of the network.
        batch_size: Tiles at a time.

    Raises:
        ValueError: sizes that do not fit each other.
    """
    for name, value in (("multiple", multiple), ("batch_size", batch_size)):
        _check(name, value)
    if tile < multiple or tile % multiple:
        raise ValueError(f"tile is {tile}; it must be a multiple of {multiple}, the network's stride.")
    if not 0 <= overlap <= tile - multiple:
        raise ValueError(f"overlap is {overlap}; with a tile of {tile} it must be from 0 to {tile - multiple}.")
    step = (tile - overlap) // multiple * multiple
    rows, columns = (tile_spans(length, tile=tile, step=step, multiple=multiple) for length in image.shape[:2])
    places = [(row, column) for row in rows for column in columns]
    labels = np.zeros(image.shape[:2], np.uint8)
    for chosen in _batches(places, batch_size):
        tiles, sizes = _cut(image, chosen, tile, batch_size)
        found = np.asarray(_labels(predict(tiles, sizes).logits))
        for one, (row, column) in zip(found, chosen):
            (top, y1, y2), (left, x1, x2) = row, column
            labels[y1:y2, x1:x2] = one[y1 - top : y2 - top, x1 - left : x2 - left]
    return labels


def tile_spans(length: int, *, tile: int, step: int, multiple: int) -> list[tuple[int, int, int]]:
    """(where a tile begins, first pixel taken from it, end of the pixels taken) along one side of an image.

    Tiles begin at multiples of `multiple`, `step` apart at most; the last one ends less than `multiple` behind the
    image. Two neighbours share out their overlap in its middle.
    """
    last = max(0, _whole(length, multiple) - tile)
    starts = [*range(0, last, step), last]
    cuts = [(a + tile + b) // 2 for a, b in itertools.pairwise(starts)]
    return list(zip(starts, [0, *cuts], [*cuts, length]))


def multi_scale(
    predict: Predict,
    *,
    scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
    flip: bool = True,
    multiple: int = 32,
) -> Predict:
    """`predict` averaged over resized and mirrored images, the usual test-time augmentation of segmentation.

    Images are resized bilinearly, each from its own size to the rounded multiple of it; the probabilities of the
    classes are brought back to the images' pixels bilinearly, and the logarithm of their mean are the new logits. The
    six scales by default, with mirror images, are those of DeepLabV3 (Chen et al. 2017, section 4).

    Args:
        predict: (variables, images, sizes) -> `SegmentationMap`, as `Model.predict`.
        scales: Factors of height and width, all above 0.
        flip: Average over each image and its mirror image.
        multiple: Resized canvases are padded to multiples of it: the network's largest stride.

    Returns:
        A function of the same signature, for `jax.jit`: all scales are one program.

    Raises:
        ValueError: no scale, or one that is not above 0.
    """
    _check("multiple", multiple)
    if not scales or not all(scale > 0 and math.isfinite(scale) for scale in scales):
        raise ValueError(f"scales must be one number above 0 or more, got {tuple(scales)}.")

    def averaged(
        variables: Variables, images: Array | np.ndarray, sizes: Array | np.ndarray, **given: Any
    ) -> SegmentationMap:
        images, sizes = as_floats(images), jnp.asarray(sizes)
        total = jnp.zeros((), jnp.float32)
        for scale in scales:
            view, view_sizes = scaled(images, sizes, scale=scale, multiple=multiple)
            mean = predict(variables, view, view_sizes, **given).probabilities
            if flip:
                other = predict(variables, letterbox.mirror(view, view_sizes), view_sizes, **given).probabilities
                mean = (mean + letterbox.mirror(other, view_sizes)) / 2
            back = letterbox.resize(mean, view_sizes, sizes, canvas=images.shape[1:3])
            total = back + jnp.broadcast_to(total, back.shape)
        return SegmentationMap(jnp.log(jnp.maximum(total / len(scales), jnp.finfo(jnp.float32).tiny)))

    return averaged


def as_floats(images: Array | np.ndarray) -> Float[Array, "b h w 3"]:
    """Images of bytes in 0..1; those of floats as they are."""
    images = jnp.asarray(images)
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images


def scaled(
    images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"], *, scale: float, multiple: int
) -> tuple[Float[Array, "b h2 w2 3"], Int[Array, "b 2"]]:
    """(the images with each side `scale` times as long, rounded, on a canvas of whole strides; their sizes)."""
    canvas = tuple(_whole(max(1, math.floor(side * scale + 0.5)), multiple) for side in images.shape[1:3])
    if scale == 1 and canvas == images.shape[1:3]:
        return images, sizes
    new = jnp.maximum(jnp.floor(sizes.astype(jnp.float32) * scale + 0.5), 1).astype(sizes.dtype)
    return letterbox.resize(images, sizes, new, canvas=canvas), new


@jax.jit
def _labels(logits: Float[Array, "b h w c"]) -> Array:
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8)


def _cut(image: np.ndarray, places: Sequence, tile: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Tiles of an image and how much of each is image; black ones fill up the batch."""
    tiles = np.zeros((batch_size, tile, tile, 3), image.dtype)
    sizes = np.full((batch_size, 2), tile, np.int32)
    for i, ((top, *_), (left, *_)) in enumerate(places):
        part = image[top : top + tile, left : left + tile]
        tiles[i, : part.shape[0], : part.shape[1]] = part
        sizes[i] = part.shape[:2]
    return tiles, sizes


def _batches(places: Sequence, size: int) -> Iterator[Sequence]:
    return (places[first : first + size] for first in range(0, len(places), size))


def _whole(length: int, multiple: int) -> int:
    """The least multiple that is not below `length`, at least one."""
    return max(1, -(-length // multiple)) * multiple


def _check(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
