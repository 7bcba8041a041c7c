"""Pascal VOC average precision: the devkit's matching, with the 11-point (VOC2007) and the area form (VOC2010 on).

Everingham et al. 2010 (IJCV 88), section 4.2, and VOCevaldet.m of the VOC2012 development kit. COCO's evaluators
cannot give this number: they offer a detection the best object that is still free, where the devkit offers it the best
object only, so that a second hit is a false positive even with another object in reach. Hence the matching is here,
and only the overlaps come from a library. Boxes are continuous: no pixel is added to their width, as the devkit does.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from segjax.evaluation.box_ious import box_ious
from segjax.evaluation.evaluator import DetectionCollector, Source, shared_collector
from segjax.types import Detections


class BestOverlaps(NamedTuple):
    """For each detection the object of its image and class that it overlaps most."""

    objects: Int[np.ndarray, "n"]
    """Number of the object over all images, -1 where image and class have none."""
    ious: Float[np.ndarray, "n"]
    difficult: Bool[np.ndarray, "n"]
    indices: Int[np.ndarray, "n"]
    """Index of the object in `source.annotations` of its image."""

    def select(self, rows: np.ndarray) -> "BestOverlaps":
        """Those of the detections that `rows` picks, in its order."""
        return BestOverlaps(*(column[rows] for column in self))


class VocAP:
    """VOC average precision over the images that were given to `update`, at one IoU threshold.

    Each detection, best score first, belongs to the object of its class that it overlaps most. It is right where the
    overlap reaches the threshold and the object was not found before. Difficult objects and crowds are neither demanded
    nor punished. Equal scores keep the order in which they came. NaN for a class without objects to find.
    """

    def __init__(
        self,
        source: Source,
        *,
        classes: Sequence[str],
        iou_threshold: float = 0.5,
        collector: DetectionCollector | None = None,
    ) -> None:
        """Makes an evaluation that has seen nothing; `classes` and `collector` as in `CocoAP`."""
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold must be above 0 and at most 1, got {iou_threshold}")
        self.collector = shared_collector(collector, source, classes)
        self.iou_threshold = iou_threshold

    def update(
        self, samples: Int[Array | np.ndarray, "b"], sizes: Int[Array | np.ndarray, "b 2"], detections: Detections
    ) -> None:
        """Adds the detections of one batch; arguments as in `Evaluator.update`."""
        self.collector.update(samples, sizes, detections)

    def compute(self) -> dict[str, float]:
        """Means over the classes that have objects: VOC_AP (area) and VOC_AP_11point; then both `/<class>`."""
        curves = self.recall_precision()
        forms = {"VOC_AP": area_ap, "VOC_AP_11point": eleven_point_ap}
        scores, single = {}, {}
        for form, average in forms.items():
            values = {name: average(*curve) if curve else float("nan") for name, curve in curves.items()}
            present = [value for value in values.values() if not np.isnan(value)]
            scores[form] = float(np.mean(present)) if present else float("nan")
            single |= {f"{form}/{name}": value for name, value in values.items()}
        return scores | single

    def recall_precision(self, samples: Sequence[int] | None = None) -> dict[str, tuple[np.ndarray, np.ndarray] | None]:
        """Recall and precision of each class after each counted detection, best first; None without objects.

        Args:
            samples: indices of the images that count; all that were seen by default.
        """
        found, samples = self.collector.collected(), self.collector.seen if samples is None else samples
        best, demanded = best_overlaps(self.collector, samples)
        of_these = np.isin(found.samples, samples)
        curves = {}
        for label, name in enumerate(self.collector.source.classes):
            rows = np.flatnonzero(of_these & (found.labels == label))
            rows = rows[np.argsort(-found.scores[rows], kind="stable")]
            right, counted = mark_hits(best.select(rows), self.iou_threshold)
            hits = np.cumsum(right[counted])
            total = demanded[label]
            curves[name] = (hits / total, hits / np.arange(1, len(hits) + 1)) if total else None
        return curves

    def results(self) -> list[dict[str, Any]]:
        """All detections in COCO's result format; see `DetectionCollector.results`."""
        return self.collector.results()


def mark_hits(best: BestOverlaps, iou_threshold: float) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """The devkit's verdict on detections of one class, best score first: (is right, is counted at all)."""
    reached = (best.objects >= 0) & (best.ious >= iou_threshold)
    counted = ~(reached & best.difficult)
    candidates = np.flatnonzero(reached & counted)
    _, first = np.unique(best.objects[candidates], return_index=True)
    right = np.zeros(len(reached), bool)
    right[candidates[first]] = True
    return right, counted


def best_overlaps(
    collector: DetectionCollector, samples: Sequence[int] | None = None
) -> tuple[BestOverlaps, Int[np.ndarray, "k"]]:
    """The best object of each collected detection, and how many objects of each class are to be found.

    Args:
        samples: indices of the images to look at, all that were seen by default; detections in others have no object.
    """
    source, found, samples = collector.source, collector.collected(), collector.seen if samples is None else samples
    count = len(found.samples)
    best = BestOverlaps(np.full(count, -1), np.zeros(count), np.zeros(count, bool), np.zeros(count, int))
    demanded = np.zeros(len(source.classes), int)
    order = np.argsort(found.samples, kind="stable")
    starts = np.searchsorted(found.samples[order], samples)
    stops = np.searchsorted(found.samples[order], samples, side="right")
    first = 0
    for sample, start, stop in zip(samples, starts, stops):
        truth = source.annotations(sample)
        demanded += np.bincount(truth.labels[truth.counted], minlength=len(demanded))
        rows = order[start:stop]
        if len(rows) and len(truth.labels):
            ious = box_ious(found.boxes[rows], truth.boxes)
            ious = np.where(found.labels[rows][:, None] == truth.labels, ious, -1.0)
            winner = ious.argmax(axis=1)
            best.ious[rows] = ious.max(axis=1)
            best.objects[rows] = np.where(best.ious[rows] >= 0, first + winner, -1)
            best.difficult[rows] = ~truth.counted[winner]
            best.indices[rows] = winner
        first += len(truth.labels)
    return best, demanded


def eleven_point_ap(recall: Float[np.ndarray, "n"], precision: Float[np.ndarray, "n"]) -> float:
    """VOC2007: the mean over the recalls 0, 0.1, ..., 1 of the best precision at that recall or a higher one."""
    # k / 10, since 0.1 * 3 rounds to above 0.3 and a recall of exactly 3 / 10 would miss its point.
    points = np.arange(11) / 10
    return float(np.mean([precision[recall >= point].max(initial=0.0) for point in points]))


def area_ap(recall: Float[np.ndarray, "n"], precision: Float[np.ndarray, "n"]) -> float:
    """VOC2010 on: the area under the precision made to fall with recall, in steps at each new recall."""
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * falling))
