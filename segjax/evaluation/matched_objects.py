"""Which detection found which object, so that whatever a head says of an object can be held against the truth.

The mean error of a predicted angle on the objects found, where the data has an attribute "angle" and the model an extra
value of that name:

    matched = matched_objects(evaluator.collector, score_threshold=0.5)
    predicted = evaluator.collector.collected().extra["angle"][matched.rows]
    error = np.nanmean(np.abs(predicted - matched.attribute(source, "angle")))
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from segjax.data.source import Source
from segjax.evaluation.evaluator import DetectionCollector
from segjax.evaluation.voc_ap import best_overlaps, mark_hits


class Matched(NamedTuple):
    """Pairs of a right detection and the object it found, the best detection first."""

    rows: Int[np.ndarray, "m"]
    """Of the detection in `collector.collected()`."""
    samples: Int[np.ndarray, "m"]
    """Index of the image in the source."""
    objects: Int[np.ndarray, "m"]
    """Index of the object in `source.annotations(sample)`."""

    def attribute(self, source: Source, name: str) -> Float[np.ndarray, "m ..."]:
        """What the data says under `name` of the object of each pair, NaN where it says nothing.

        `ValueError` where the source was not asked to read such an attribute.
        """
        # Asked of one image at least, so that a wrong name is found out before anything is.
        samples = np.unique(self.samples).tolist() or list(range(min(len(source), 1)))
        truths = {sample: source.annotations(sample) for sample in samples}
        for truth in truths.values():
            if name not in truth.attributes:
                known = ", ".join(truth.attributes) or "none"
                raise ValueError(f"the data set {source.name!r} has no attribute {name!r}; it has: {known}")
        pairs = zip(self.samples.tolist(), self.objects.tolist())
        return np.asarray([truths[sample].attributes[name][index] for sample, index in pairs], np.float32)


def matched_objects(
    collector: DetectionCollector, *, iou_threshold: float = 0.5, score_threshold: float = 0.0
) -> Matched:
    """The right detections among those that score `score_threshold` or more, each with the object it found.

    The rule is that of `segjax.evaluation.voc_ap`: a detection belongs to the object of its class that it overlaps
    most, and of those that reach `iou_threshold` the best one finds it. Crowds and difficult objects are never found.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be above 0 and at most 1, got {iou_threshold}")
    found = collector.collected()
    kept = np.flatnonzero(found.scores >= score_threshold)
    kept = kept[np.argsort(-found.scores[kept], kind="stable")]
    best = best_overlaps(collector)[0].select(kept)
    right, _ = mark_hits(best, iou_threshold)
    return Matched(kept[right], found.samples[kept][right], best.indices[right])
