"""How well objects are found in images of few and of many: what a fixed number of outputs struggles with."""

from collections.abc import Sequence

import numpy as np

from segjax.evaluation.evaluator import DetectionCollector
from segjax.evaluation.voc_ap import VocAP, area_ap

GROUPS = ((1, 2), (3, 4), (5, None))
"""(fewest, most) objects of an image; None for no limit."""


def scores_by_count(
    collector: DetectionCollector,
    *,
    groups: Sequence[tuple[int, int | None]] = GROUPS,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.5,
) -> dict[str, float]:
    """Scores of the images that have so many objects each, and how well the objects are counted.

    Crowds and difficult objects are not counted, nor asked for.

    Args:
        collector: with all detections of the images to score.
        groups: numbers of objects; an image belongs to every group whose limits it lies in.
        iou_threshold: of a detection that finds an object, above 0 and at most 1.
        score_threshold: a detection of this score or more counts as an object that is said to be there.

    Returns:
        For each group `AP50_objects_1_2` (with the threshold in percent and the limits; `AP50_objects_5_up` without an
        upper one): VOC's AP under the curve, the mean over the classes that those images show. Then `count_error`, the
        mean over images of |detections of `score_threshold` and more - objects|. NaN for a mean over nothing.

    Raises:
        ValueError: a group is empty by its limits, or `iou_threshold` is out of range.
    """
    voc = VocAP(collector.source, classes=collector.source.classes, iou_threshold=iou_threshold, collector=collector)
    seen = np.asarray(collector.seen, int)
    counts = np.asarray([collector.source.annotations(sample).counted.sum() for sample in seen.tolist()], int)
    scores = {}
    for low, high in groups:
        if low < 0 or (high is not None and high < low):
            raise ValueError(f"groups has ({low}, {high}), which no number of objects lies in.")
        of_these = (counts >= low) & (counts <= (counts.max(initial=low) if high is None else high))
        curves = voc.recall_precision(seen[of_these].tolist()).values()
        values = [area_ap(*curve) for curve in curves if curve]
        name = f"AP{round(100 * iou_threshold)}_objects_{low}_{'up' if high is None else high}"
        scores[name] = float(np.mean(values)) if values else float("nan")
    found = collector.collected()
    said = np.bincount(found.samples[found.scores >= score_threshold], minlength=len(collector.source))[seen]
    scores["count_error"] = float(np.abs(said - counts).mean()) if len(seen) else float("nan")
    return scores
