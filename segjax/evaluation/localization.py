"""Scores of classification with localization, as ILSVRC has them: what an image shows, and where.

Russakovsky et al. 2015, sections 4.1 and 4.2. There the errors are given, here what is right: 1 minus the error.
Where the paper speaks of more than 50 % of overlap, the development kit counts less than 0.50 as wrong
(eval_localization_flat.m of 2012, eval_clsloc.m of 2013), so that just half is right; so it is here. The kit also adds
a pixel to the width and height of boxes, which are continuous here.
"""

import numpy as np

from segjax.data.main_object import main_object
from segjax.evaluation.box_ious import box_ious
from segjax.evaluation.evaluator import CollectedDetections, DetectionCollector


def localization_scores(
    collector: DetectionCollector, *, guesses: int = 1, iou_threshold: float = 0.5
) -> dict[str, float]:
    """How often the best detections of an image are of its class, and at its object.

    The class of an image is that of its main object (`segjax.data.main_object`); images without one do not count. A
    box is right where it overlaps any object of that class by `iou_threshold` or more: in a data set of main objects
    alone there is one. An image without detections is wrong.

    Args:
        collector: with all detections of the images to score; of an image the `guesses` best count, of equal scores the
            first.
        guesses: detections an image that may be right, 5 in ILSVRC. Above 1 there are the scores of one too.
        iou_threshold: above 0 and at most 1.

    Returns:
        `top1`, the share of images whose best detection is of the right class; `localization`, of those where its box
        is right as well; `localization_iou`, the mean IoU of its box where the class is right; and for more guesses,
        `top<n>` and `localization_top<n>`, the share of images of which any guess is. Then the first two of each class.
        NaN for a mean over nothing.

    Raises:
        ValueError: there is no guess, or the threshold is out of range.
    """
    if guesses < 1 or not 0 < iou_threshold <= 1:
        raise ValueError(
            f"guesses={guesses} must be at least 1, and iou_threshold={iou_threshold} above 0 and at most 1"
        )
    found, classes = collector.collected(), collector.source.classes
    labels, right, ious = _judged(collector, found, guesses)
    at = right & (ious >= iou_threshold)
    scores = {
        "top1": _mean(right[:, 0]),
        "localization": _mean(at[:, 0]),
        "localization_iou": _mean(ious[right[:, 0], 0]),
    }
    if guesses > 1:
        scores |= {f"top{guesses}": _mean(right.any(axis=1)), f"localization_top{guesses}": _mean(at.any(axis=1))}
    for name, hits in (("top1", right[:, 0]), ("localization", at[:, 0])):
        scores |= {f"{name}/{label}": _mean(hits[labels == i]) for i, label in enumerate(classes)}
    return scores


def _judged(
    collector: DetectionCollector, found: CollectedDetections, guesses: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each image seen that has a main object: its class [n], whether each guess is of it [n, guesses], and the
    largest IoU of each such guess with an object of that class."""
    order = np.lexsort((-found.scores, found.samples))
    starts = np.searchsorted(found.samples[order], collector.seen)
    stops = np.searchsorted(found.samples[order], collector.seen, side="right")
    labels, right, ious = [], [], []
    for sample, start, stop in zip(collector.seen, starts, stops):
        truth = collector.source.annotations(sample)
        main = main_object(truth)
        if main is None:
            continue
        label, rows = int(truth.labels[main]), order[start:stop][:guesses]
        same = (truth.labels == label) & truth.counted
        hits, overlaps = np.zeros(guesses, bool), np.zeros(guesses)
        if len(rows):
            hits[: len(rows)] = found.labels[rows] == label
            overlaps[: len(rows)] = box_ious(found.boxes[rows], truth.boxes[same]).max(axis=1)
        labels.append(label)
        right.append(hits)
        ious.append(overlaps)
    shape = (len(labels), guesses)
    return np.array(labels, int), np.array(right, bool).reshape(shape), np.array(ious, float).reshape(shape)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
