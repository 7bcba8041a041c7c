"""The mistakes of a detector image by image, so that the best and the worst images can be looked at."""

from typing import NamedTuple

import numpy as np

from segjax.evaluation.evaluator import CollectedDetections, DetectionCollector
from segjax.evaluation.voc_ap import best_overlaps, mark_hits


class ImageErrors(NamedTuple):
    """What a detector did to one image, at a score threshold and an IoU threshold."""

    sample: int
    """Index of the image in the source."""
    objects: int
    """Objects to be found: neither crowd nor difficult."""
    missed: int
    wrong: int
    """Detections on nothing, of the wrong class, or of an object found before."""

    @property
    def errors(self) -> int:
        """Missed objects and wrong detections together."""
        return self.missed + self.wrong


def image_errors(
    collector: DetectionCollector, *, score_threshold: float = 0.5, iou_threshold: float = 0.5
) -> list[ImageErrors]:
    """Missed objects and wrong detections of every image seen, in the order of the source.

    Detections below `score_threshold` are as if not made. Matching is VOC's: each detection belongs to the object of
    its class that it overlaps most, and only the first to reach `iou_threshold`, best score first, is right.
    """
    found = collector.collected()
    kept = np.flatnonzero(found.scores >= score_threshold)
    kept = kept[np.argsort(-found.scores[kept], kind="stable")]
    best, _ = best_overlaps(collector)
    # Objects are numbered over all classes, so that one call judges all classes at once.
    right, counted = mark_hits(best.select(kept), iou_threshold)
    count = len(collector.source)
    hits = np.bincount(found.samples[kept][right], minlength=count)
    wrong = np.bincount(found.samples[kept][counted & ~right], minlength=count)
    rows = []
    for sample in collector.seen:
        truth = collector.source.annotations(sample)
        objects = int(truth.counted.sum())
        rows.append(ImageErrors(sample, objects, objects - int(hits[sample]), int(wrong[sample])))
    return rows


def best_and_worst(rows: list[ImageErrors], count: int) -> tuple[list[ImageErrors], list[ImageErrors]]:
    """The `count` best and `count` worst images, the extreme ones first; no image is in both.

    Worst: the most errors. Best: the fewest errors, among these the most objects, so that an image with many objects
    all found comes before an empty one. Ties keep the order of the source.
    """
    ranked = sorted(rows, key=lambda row: (row.errors, -row.objects))
    count = min(count, len(ranked) // 2 if len(ranked) > 1 else 1)
    return ranked[:count], ranked[::-1][:count] if len(ranked) > 1 else []


def detections_of(collector: DetectionCollector, sample: int) -> CollectedDetections:
    """The collected detections of one image, in pixels of the original image."""
    found = collector.collected()
    return found.select(found.samples == sample)
