"""The scores of label maps that were cleaned up by superpixels: each region of an image has one class."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32

from segjax.data.source import LabelMapSource
from segjax.evaluation.segmentation_evaluator import SegmentationEvaluator
from segjax.evaluation.segmentation_maps import STEP, FileMaps, check_logits, file_canvas
from segjax.evaluation.segmentation_text import CLEANED
from segjax.ops import letterbox
from segjax.superpixels import METHODS
from segjax.types import SegmentationMap


class Cleaned:
    """Scores what `SegmentationEvaluator` scores, after each superpixel was given one class.

    Farabet, Couprie, Najman and LeCun 2013, section 4.1: the class probabilities of the pixels of a superpixel are
    averaged, and the class of the highest mean is that of all of them. Superpixels are those of the image at the size
    of its file, to which the logits are brought before. The names of the scores begin with "cleaned_".
    """

    def __init__(
        self, source: LabelMapSource, *, classes: Sequence[str], method: str, boundary: bool = True, keep: int = 0
    ) -> None:
        """Makes an evaluation that has seen nothing.

        Args:
            source: The data to evaluate on.
            classes: The class map of the model; `ValueError` where it is not that of `source`.
            method: How images are cut into superpixels: a name in `segjax.superpixels.METHODS`, else `ValueError`.
            boundary, keep: As those of `SegmentationEvaluator`.
        """
        if method not in METHODS:
            raise ValueError(f"there is no method {method!r} to clean up by; there are {', '.join(METHODS)}.")
        self.scores = SegmentationEvaluator(source, classes=classes, boundary=boundary, keep=keep, prefix=CLEANED)
        self._source, self._classes, self._cut = source, tuple(classes), METHODS[method]

    def update(
        self,
        samples: Int[Array | np.ndarray, "b"],
        sizes: Int[Array | np.ndarray, "b 2"],
        predictions: SegmentationMap,
    ) -> None:
        """Adds what was predicted for one batch; arguments as in `Evaluator.update`."""
        logits = predictions.logits
        check_logits(logits, self._classes)
        noted = self.scores.note(samples)
        file_sizes, canvas = file_canvas(self._source, noted)
        regions, count = self._regions(noted, canvas)
        sizes = np.maximum(np.asarray(sizes), 1).astype(np.int32)
        labels, finite = _cleaned(logits, sizes, file_sizes, regions, count=count)
        self.scores.add(FileMaps(noted, file_sizes, labels, finite))

    def compute(self) -> dict[str, float]:
        """The scores by name; see `SegmentationEvaluator.compute`."""
        return self.scores.compute()

    def _regions(self, samples: np.ndarray, canvas: tuple[int, int]) -> tuple[Int32[np.ndarray, "b h w"], int]:
        """The superpixels of a batch, -1 beside the images, and a number above all of theirs.

        The number is a power of two, so that few programs are compiled.
        """
        regions = np.full((len(samples), *canvas), -1, np.int32)
        for row, sample in zip(regions, samples.tolist()):
            if sample >= 0:
                found = self._cut(self._source.image(sample))
                row[: found.shape[0], : found.shape[1]] = found
        return regions, 1 << max(int(regions.max()), 0).bit_length()


@functools.partial(jax.jit, static_argnames="count")
def _cleaned(logits: Array, sizes: Array, file_sizes: Array, regions: Array, *, count: int) -> tuple[Array, Array]:
    """(the class of each pixel's region, whether all logits of an image are finite).

    The class of the highest mean is that of the highest sum, and sums are made strip by strip: probabilities at the
    size of the files are never there as a whole.
    """
    b, _, width = regions.shape
    classes = logits.shape[-1]
    ids = jnp.where(regions < 0, count, regions)
    sum_by_region = jax.vmap(functools.partial(jax.ops.segment_sum, num_segments=count + 1))

    def add(sums: Array, first_row: Array) -> tuple[Array, None]:
        strip = letterbox.resize(logits, sizes, file_sizes, canvas=(STEP, width), first_row=first_row)
        own = jax.lax.dynamic_slice_in_dim(ids, first_row, STEP, axis=1)
        probabilities = jax.nn.softmax(strip, axis=-1).reshape(b, -1, classes)
        return sums + sum_by_region(probabilities, own.reshape(b, -1)), None

    sums = jnp.zeros((b, count + 1, classes), logits.dtype)
    sums, _ = jax.lax.scan(add, sums, jnp.arange(0, regions.shape[1], STEP, dtype=jnp.int32))
    of_region = jnp.argmax(sums, axis=-1).astype(jnp.uint8)
    labels = jax.vmap(lambda one, region: one[region])(of_region, ids)
    return labels, jnp.isfinite(logits).all(axis=(1, 2, 3))
