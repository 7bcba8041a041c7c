"""The scores of semantic segmentation behind one `Evaluator`: mIoU and its like, boundary F, image by image too."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int64, UInt8

from segjax.data.source import LabelMapSource
from segjax.evaluation import confusion
from segjax.evaluation.boundary import BoundaryScores
from segjax.evaluation.confusion import confusion_matrix
from segjax.evaluation.evaluator import Seen, check_classes
from segjax.evaluation.segmentation_maps import FileMaps, check_logits, file_maps, truth_maps
from segjax.types import SegmentationMap


class ImageScore(NamedTuple):
    """How one image was segmented."""

    sample: int
    """Index of the image in the source."""
    miou: float
    """The mean IoU of the classes that the image has in truth or prediction."""
    wrong: float
    """The share of its labelled pixels that is wrong."""


class KeptImage(NamedTuple):
    """An image with what was predicted of it."""

    score: ImageScore
    label_map: UInt8[np.ndarray, "h w"]
    """The predicted classes, at the size of the file."""


class _Batch(NamedTuple):
    """A batch that is scored on the device and not yet looked at."""

    maps: FileMaps
    truth: UInt8[np.ndarray, "b h w"]
    scores: Float[Array, "b 2"]


class SegmentationEvaluator:
    """Scores label maps at the resolution of the image files, unlabelled pixels left out.

    The confusion matrix grows on the device, in int32, and is added up on the host, in int64, before it can overflow;
    logits are never copied to the host. Boundaries and the pictures to keep are made on the host, of the batch before
    the last one, so that the device need not wait; no more than two batches are held.
    """

    def __init__(
        self,
        source: LabelMapSource,
        *,
        classes: Sequence[str],
        boundary: bool = True,
        keep: int = 6,
        prefix: str = "",
    ) -> None:
        """Makes an evaluation that has seen nothing.

        Args:
            source: The data to evaluate on.
            classes: The class map of the model; `ValueError` where it is not that of `source`.
            boundary: Score boundaries too.
            keep: How many of the best and of the worst images are kept with their label maps, for pictures.
            prefix: Put before the name of every score.
        """
        check_classes(classes, source)
        if keep < 0:
            raise ValueError(f"keep must be 0 or more, got {keep}")
        self.source = source
        self._classes, self._prefix = tuple(classes), prefix
        self._boundary = BoundaryScores(len(classes)) if boundary else None
        self._seen = Seen(source)
        self._total = np.zeros((len(classes), len(classes)), np.int64)
        self._on_device: Array | None = None
        self._pixels = 0
        self._waiting: list[_Batch] = []
        self._images: list[ImageScore] = []
        self._extremes = _Extremes(keep)

    def update(
        self,
        samples: Int[Array | np.ndarray, "b"],
        sizes: Int[Array | np.ndarray, "b 2"],
        predictions: SegmentationMap,
    ) -> None:
        """Adds what was predicted for one batch; arguments as in `Evaluator.update`, on a device or not.

        `ValueError` where the logits are not of the classes, where an image comes twice, and, one batch later, where
        logits are not finite.
        """
        check_logits(predictions.logits, self._classes)
        self.add(file_maps(predictions.logits, sizes, self.note(samples), self.source))

    def note(self, samples: Int[Array | np.ndarray, "b"]) -> np.ndarray:
        """Marks the images of a batch as seen; see `Seen.add`."""
        return self._seen.add(samples)

    def add(self, maps: FileMaps) -> None:
        """Adds label maps of images that were noted."""
        truth = truth_maps(self.source, maps.samples, maps.labels.shape[1:])
        matrix, scores = _score(maps.labels, truth, classes=len(self._classes))
        if self._pixels + truth.size > confusion.MAX_PIXELS:
            self._drain()
        self._on_device = matrix if self._on_device is None else _add(self._on_device, matrix)
        self._pixels += truth.size
        self._waiting.append(_Batch(maps, truth, scores))
        self._settle(1)

    @property
    def confusion(self) -> Int64[np.ndarray, "c c"]:
        """How many pixels of each class (row) were taken for each class (column), over all images seen so far."""
        self._drain()
        return self._total.copy()

    @property
    def images(self) -> list[ImageScore]:
        """The scores of each image that has labelled pixels, in the order in which they came."""
        self._settle(0)
        return list(self._images)

    @property
    def seen(self) -> int:
        """The number of images seen so far."""
        return len(self._seen)

    def best_and_worst(self) -> tuple[list[KeptImage], list[KeptImage]]:
        """The images of highest and of lowest mean IoU that were kept, the extreme ones first; no image is in both."""
        self._settle(0)
        return self._extremes.best_and_worst(len(self._images))

    def compute(self) -> dict[str, float]:
        """The scores by name: "mIoU", "pixel_accuracy", "class_accuracy" (the mean of recalls), "frequency_IoU",
        "boundary_F", and "IoU/<class>", "accuracy/<class>", "boundary_F/<class>". Each mean is over what is defined."""
        self._settle(0)
        matrix = self.confusion
        columns = {"IoU": confusion.class_iou(matrix), "accuracy": confusion.class_accuracy(matrix)}
        scores = {
            "mIoU": confusion.mean_of_defined(columns["IoU"]),
            "pixel_accuracy": confusion.pixel_accuracy(matrix),
            "class_accuracy": confusion.mean_of_defined(columns["accuracy"]),
            "frequency_IoU": confusion.frequency_iou(matrix),
        }
        if self._boundary is not None:
            scores["boundary_F"] = self._boundary.mean
            columns["boundary_F"] = self._boundary.by_class
        for name, values in columns.items():
            scores |= {f"{name}/{k}": value for k, value in zip(self._classes, values.tolist())}
        return {f"{self._prefix}{name}": value for name, value in scores.items()}

    def _drain(self) -> None:
        if self._on_device is not None:
            self._total += np.asarray(self._on_device, np.int64)
        self._on_device, self._pixels = None, 0

    def _settle(self, left: int) -> None:
        """Looks at all batches but the newest `left`."""
        while len(self._waiting) > left:
            self._look(self._waiting.pop(0))

    def _look(self, batch: _Batch) -> None:
        maps = batch.maps
        finite, scores = jax.device_get((maps.finite, batch.scores))
        predicted = np.asarray(maps.labels) if self._boundary is not None or self._extremes.count else None
        for row, sample in enumerate(maps.samples.tolist()):
            if sample < 0:
                continue
            if not finite[row]:
                name = self.source.info(sample).image_id
                raise ValueError(f"the logits of image {name!r} are not all finite; look at the model")
            score = ImageScore(sample, *scores[row].tolist())
            if not np.isnan(score.miou):
                self._images.append(score)
            if predicted is not None:
                self._draw_from(score, maps.cropped(row, batch.truth), maps.cropped(row, predicted))

    def _draw_from(self, score: ImageScore, truth: np.ndarray, predicted: np.ndarray) -> None:
        if self._boundary is not None:
            self._boundary.add(truth, predicted)
        if not np.isnan(score.miou):
            self._extremes.add(KeptImage(score, predicted))


class _Extremes:
    """The `count` images of lowest and of highest mean IoU among those added; of equals the first ones."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._best: list[KeptImage] = []
        self._worst: list[KeptImage] = []

    def add(self, image: KeptImage) -> None:
        self._best = self._put(self._best, image, sign=-1)
        self._worst = self._put(self._worst, image, sign=1)

    def best_and_worst(self, total: int) -> tuple[list[KeptImage], list[KeptImage]]:
        """Of `total` images; few ones are shared out, the best ones getting the odd one."""
        return self._best[: (total + 1) // 2], self._worst[: total // 2]

    def _put(self, kept: list[KeptImage], image: KeptImage, *, sign: int) -> list[KeptImage]:
        if not self.count or (len(kept) == self.count and sign * image.score.miou >= sign * kept[-1].score.miou):
            return kept
        # A copy, lest the whole batch stay in memory for a view of it.
        kept = [*kept, image._replace(label_map=image.label_map.copy())]
        return sorted(kept, key=lambda one: sign * one.score.miou)[: self.count]


@functools.partial(jax.jit, static_argnames="classes")
def _score(predicted: Array, truth: Array, *, classes: int) -> tuple[Array, Array]:
    """(the confusion matrix of a batch, mean IoU and share of wrong pixels of each image)."""
    matrices = jax.vmap(functools.partial(confusion_matrix, classes=classes))(truth, predicted)
    counts = matrices.astype(jnp.float32)
    right = jnp.diagonal(counts, axis1=1, axis2=2)
    union = counts.sum(1) + counts.sum(2) - right
    pixels, there = counts.sum((1, 2)), (union > 0).astype(jnp.float32).sum(1)
    miou = (right / jnp.maximum(union, 1)).sum(1) / jnp.maximum(there, 1)
    wrong = (pixels - right.sum(1)) / jnp.maximum(pixels, 1)
    scores = jnp.where((pixels > 0)[:, None], jnp.stack([miou, wrong], axis=1), jnp.nan)
    return matrices.sum(0), scores


@jax.jit
def _add(a: Array, b: Array) -> Array:
    return a + b
