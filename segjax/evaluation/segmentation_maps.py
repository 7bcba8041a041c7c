"""From the logits of a batch to label maps at the size of the image files, which is where benchmarks score."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, UInt8

from segjax.data.source import DataError, LabelMapSource, Source
from segjax.ops import letterbox
from segjax.types import IGNORE

STEP = 64
"""Pixels. Canvases for files of other sizes than the batch are multiples of it, so that few programs are compiled, and
logits are brought to them in strips of so many rows, so that those of large files need never be there at once."""


class FileMaps(NamedTuple):
    """Predicted label maps of a batch, each at the top left of a canvas."""

    samples: Int32[np.ndarray, "b"]
    """Index of each image in its source; -1 where it is a filler."""
    file_sizes: Int32[np.ndarray, "b 2"]
    """(height, width) of each image file; of a filler 1 pixel."""
    labels: UInt8[Array, "b h w"]
    """The most probable class of each pixel; beyond the file's size it means nothing."""
    finite: Bool[Array, "b"]
    """Whether all logits of the image were finite."""

    def cropped(self, row: int, maps: UInt8[np.ndarray, "b h w"]) -> UInt8[np.ndarray, "h2 w2"]:
        """Of `maps` on this canvas the one of image `row`, at the size of its file."""
        height, width = self.file_sizes[row].tolist()
        return maps[row, :height, :width]


def check_logits(logits: Float[Array | np.ndarray, "b h w c"], classes: Sequence[str]) -> None:
    """`ValueError` where the logits are not of as many classes as there are names."""
    if logits.shape[-1] != len(classes):
        raise ValueError(f"the model gives logits of {logits.shape[-1]} classes, and there are {len(classes)}")


def file_maps(
    logits: Float[Array | np.ndarray, "b h w c"],
    sizes: Int[Array | np.ndarray, "b 2"],
    samples: Int32[np.ndarray, "b"],
    source: Source,
) -> FileMaps:
    """The most probable classes, after the logits were brought to the files' sizes bilinearly (half-pixel centres).

    Everything happens where the logits are; nothing is waited for. One program is compiled for each pair of a batch's
    shape and a canvas.

    Args:
        logits: In the pixels of the batch, on a device or not, shared out over devices or not.
        sizes: (height, width) of the part of each image that is not padding.
        samples: Index of each image in `source`; -1 marks fillers.
        source: Knows the sizes of the files.
    """
    sizes = np.maximum(np.asarray(sizes), 1).astype(np.int32)
    file_sizes, canvas = file_canvas(source, samples)
    resized = bool((file_sizes != sizes)[samples >= 0].any())
    canvas = canvas if resized else (logits.shape[1], logits.shape[2])
    labels, finite = _argmax(logits, sizes, file_sizes, canvas=canvas, resized=resized)
    return FileMaps(samples, file_sizes, labels, finite)


def file_canvas(source: Source, samples: Int32[np.ndarray, "b"]) -> tuple[Int32[np.ndarray, "b 2"], tuple[int, int]]:
    """(height and width of each image's file, 1 of fillers; the least canvas of multiples of `STEP` for all)."""
    infos = [source.info(sample) if sample >= 0 else None for sample in samples.tolist()]
    sizes = np.array([(1, 1) if info is None else (info.height, info.width) for info in infos], np.int32)
    height, width = (-(-sizes.max(0) // STEP) * STEP).tolist()
    return sizes, (height, width)


@functools.partial(jax.jit, static_argnames=("canvas", "resized"))
def _argmax(
    logits: Array, sizes: Array, file_sizes: Array, *, canvas: tuple[int, int], resized: bool
) -> tuple[Array, Array]:
    finite = jnp.isfinite(logits).all(axis=(1, 2, 3))
    if not resized:
        return jnp.argmax(logits, axis=-1).astype(jnp.uint8), finite

    def strip(first_row: Array) -> Array:
        part = letterbox.resize(logits, sizes, file_sizes, canvas=(STEP, canvas[1]), first_row=first_row)
        return jnp.argmax(part, axis=-1).astype(jnp.uint8)

    strips = jax.lax.map(strip, jnp.arange(0, canvas[0], STEP, dtype=jnp.int32))
    return jnp.moveaxis(strips, 0, 1).reshape(len(logits), *canvas), finite


def truth_maps(
    source: LabelMapSource, samples: Int32[np.ndarray, "b"], canvas: tuple[int, int]
) -> UInt8[np.ndarray, "b h w"]:
    """The true label maps of a batch at the top left of a canvas, `IGNORE` beyond them and of fillers.

    One that cannot be used is `IGNORE` all over, so that its image does not count, and noted in `source.problems`.
    """
    maps = np.full((len(samples), *canvas), IGNORE, np.uint8)
    for row, sample in zip(maps, samples.tolist()):
        if sample >= 0 and (label_map := _usable(source, sample)) is not None:
            row[: label_map.shape[0], : label_map.shape[1]] = label_map
    return maps


def _usable(source: LabelMapSource, sample: int) -> UInt8[np.ndarray, "h w"] | None:
    try:
        return source.label_map(sample)
    except DataError as error:
        kind = getattr(error, "kind", "undecodable label map")
        source.problems.add(kind, source.info(sample).image_id, str(error), action="not scored")
        return None
