"""How well proposals cover the objects of a data set: recall, average recall, mean average best overlap.

A detector cannot find what no proposal covers, so that these bound it from above. The overlap of an object is its IoU
with the proposal of its image that it overlaps most, of whatever class; one proposal may cover several objects.
Crowds and difficult objects do not count.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from segjax.data.source import Source
from segjax.evaluation.box_ious import box_ious

Proposals = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""Index of an image in its source -> (boxes [p 4], best first, and scores [p]), as `ProposalFile` gives them."""
COUNTS = tuple(sorted({round(10 ** (i / 10)) for i in range(34)} | {10, 100, 300, 1000, 2000}))
"""Numbers of proposals, 1 to 2000, at which curves are drawn: ten to the decade."""


@dataclasses.dataclass(frozen=True)
class Coverage:
    """The overlap of each object with the best of the first `counts[i]` proposals of its image."""

    counts: tuple[int, ...]
    """Rising numbers of proposals; c of them."""
    overlaps: Float[np.ndarray, "n c"]
    """Best IoU of each of the n objects of all images; 0 where no proposal touches it."""
    labels: Int[np.ndarray, " n"]
    """The class of each object."""
    classes: tuple[str, ...]
    proposals: Int[np.ndarray, " images"]
    """How many proposals each image has."""

    def recall(self, iou: float) -> Float[np.ndarray, " c"]:
        """The share of objects whose overlap reaches `iou`, for each number of proposals; NaN without objects."""
        return self._mean(self.overlaps >= iou)

    def average_recall(self) -> Float[np.ndarray, " c"]:
        """The mean of the recall over all IoU from 0.5 to 1 (Hosang et al. 2016, section 5.3).

        The integral is taken exactly: an object of overlap o is found at a share 2 max(o - 0.5, 0) of them.
        """
        return self._mean(2 * np.maximum(self.overlaps - 0.5, 0))

    def best_overlap(self) -> Float[np.ndarray, "k c"]:
        """Average best overlap of each class (Uijlings et al. 2013, section 4); NaN for a class without objects."""
        return np.stack([self._mean(self.overlaps, self.labels == label) for label in range(len(self.classes))])

    def mean_best_overlap(self) -> Float[np.ndarray, " c"]:
        """MABO: the mean of `best_overlap` over the classes that have objects."""
        present = np.unique(self.labels)
        return self.best_overlap()[present].mean(axis=0) if len(present) else np.full(len(self.counts), np.nan)

    def at(self, count: int) -> int:
        """Where `count` proposals stand among `counts`. `ValueError` where they do not."""
        if count not in self.counts:
            raise ValueError(f"the coverage was not measured at {count} proposals, but at {self.counts}")
        return self.counts.index(count)

    def _mean(self, values: np.ndarray, chosen: Bool[np.ndarray, " n"] | slice = slice(None)) -> np.ndarray:
        values = values[chosen]
        return values.mean(axis=0) if len(values) else np.full(len(self.counts), np.nan)


def coverage(source: Source, proposals: Proposals, *, counts: Sequence[int] = COUNTS) -> Coverage:
    """Measures the proposals of every image of a source against its objects.

    Raises:
        ValueError: `counts` are not whole numbers above 0 that rise.
    """
    counts = tuple(counts)
    if not counts or counts[0] < 1 or any(a >= b for a, b in itertools.pairwise(counts)):
        raise ValueError(f"counts {counts} must be numbers above 0 that rise")
    overlaps, labels, numbers = [np.zeros((0, len(counts)))], [np.zeros(0, np.int64)], []
    for index in range(len(source)):
        boxes, _ = proposals(index)
        truth = source.annotations(index)
        overlaps.append(best_overlaps(boxes, truth.boxes[truth.counted], counts))
        labels.append(truth.labels[truth.counted].astype(np.int64))
        numbers.append(len(boxes))
    return Coverage(
        counts=counts,
        overlaps=np.concatenate(overlaps),
        labels=np.concatenate(labels),
        classes=tuple(source.classes),
        proposals=np.array(numbers, np.int64),
    )


def best_overlaps(
    proposals: Float[np.ndarray, "p 4"], objects: Float[np.ndarray, "n 4"], counts: Sequence[int]
) -> Float[np.ndarray, "n c"]:
    """The IoU of each object with the best of the first `counts[i]` proposals; 0 where there is none."""
    proposals = proposals[: max(counts)]
    if not len(proposals) or not len(objects):
        return np.zeros((len(objects), len(counts)))
    best = np.maximum.accumulate(box_ious(objects, proposals), axis=1)
    return best[:, np.minimum(counts, len(proposals)) - 1]
