"""The scores of label maps that were cleaned up by superpixels: each region of an image has one class."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32

from segjax.data.source import LabelMapSource
from segjax.evaluation.segmentation_evaluator import SegmentationEvaluator
from segjax.evaluation.segmentation_maps import FileMaps, check_logits, place
from segjax.evaluation.segmentation_text import CLEANED
from segjax.ops import letterbox
from segjax.ops.guided import region_means
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
        sizes = np.maximum(np.asarray(sizes), 1).astype(np.int32)
        infos = [self._source.info(int(sample)) if sample >= 0 else None for sample in noted]
        file_sizes, canvas, _ = place(infos, sizes, (logits.shape[1], logits.shape[2]))
        regions, count = self._regions(noted, canvas)
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
    """(the class of each pixel's region, whether all logits are finite), image by image to save memory."""

    def one(row: tuple[Array, Array, Array, Array]) -> Array:
        image, size, file_size, own = row
        resized = letterbox.resize(image[None], size[None], file_size[None], canvas=own.shape)
        means = region_means(jax.nn.softmax(resized[0], axis=-1), own, count=count)
        return jnp.argmax(means, axis=-1).astype(jnp.uint8)

    labels = jax.lax.map(one, (logits, sizes, file_sizes, regions))
    return labels, jnp.isfinite(logits).all(axis=(1, 2, 3))
