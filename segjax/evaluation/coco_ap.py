"""COCO average precision of boxes, masks and joints, computed by faster-coco-eval, which equals pycocotools
(Lin et al. 2014)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from segjax.evaluation.coco_tables import ASSUMED_SIGMA, IOU_THRESHOLDS, KINDS, coco_tables
from segjax.evaluation.evaluator import DetectionCollector, Source, shared_collector
from segjax.types import Detections


class PrecisionRecall(NamedTuple):
    """Interpolated precision at 101 recalls for each class at one IoU threshold."""

    iou_threshold: float
    classes: tuple[str, ...]
    recall: Float[np.ndarray, "r"]
    precision: Float[np.ndarray, "k r"]
    """0 at recalls never reached; NaN for a class without objects."""
    scores: Float[np.ndarray, "k r"]
    """The score threshold that reaches each recall; NaN where none does."""


class CocoAP:
    """COCO's numbers for one kind of output, over the images that were given to `update`, and AP of each class.

    Images never given are left out, objects and all, so that a subset can be evaluated. Difficult objects (VOC)
    count as crowd: neither demanded nor punished, since COCO's rules know no other kind of object to ignore.
    A score that no object decides (AP_small without small objects) is NaN.

    Boxes and masks: at most 100 detections of a class in an image count, by COCO's rule. An object without
    segmentation counts for masks as a crowd in its box.

    Joints: at most 20 detections count, small objects have no score of their own, and an object without a labelled
    joint is neither demanded nor punished. The similarity (OKS) uses the data set's own sigmas; where it states none,
    0.05 for every joint, and then "keypoint_assumed_sigma" is among the scores.
    """

    def __init__(
        self,
        source: Source,
        *,
        classes: Sequence[str],
        kind: str = "boxes",
        collector: DetectionCollector | None = None,
    ) -> None:
        """Makes an evaluation that has seen nothing.

        Args:
            source: The data to evaluate on.
            classes: The class map of the model; `ValueError` where it is not that of `source`.
            kind: "boxes", "masks" or "keypoints". `ValueError` for another, and for joints that `source` does not have.
            collector: Of the same source, where several scores share one: whoever owns it updates it, once a batch.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        if kind == "keypoints" and source.keypoints is None:
            raise ValueError(f"the data set {source.name!r} has no joints to evaluate; leave the kind 'keypoints' out")
        self.kind = kind
        self.collector = shared_collector(collector, source, classes)
        self._tables: tuple[int, dict[str, np.ndarray]] | None = None

    @property
    def coco(self) -> dict[str, "CocoAP"]:
        """Itself by its kind, as `DetectionEvaluator.coco` has all kinds."""
        return {self.kind: self}

    def update(
        self, samples: Int[Array | np.ndarray, "b"], sizes: Int[Array | np.ndarray, "b 2"], detections: Detections
    ) -> None:
        """Adds the detections of one batch; arguments as in `Evaluator.update`."""
        self.collector.update(samples, sizes, detections)

    def compute(self) -> dict[str, float]:
        """The scores by name, in 0..1, NaN where there is nothing to find.

        Boxes: AP, AP50, AP75, AP_small, AP_medium, AP_large, AR1, AR10, AR100, AR_small, AR_medium, AR_large, then
        `AP/<class>` and `AP50/<class>` of each class. Masks: the same, each with "mask_" before it. Joints:
        keypoint_AP, AP50, AP75, AP_medium, AP_large, AR, AR50, AR75, AR_medium, AR_large, then the classes.
        """
        tables, rule = self._evaluate(), KINDS[self.kind]
        precision, recall = tables["precision"], tables["recall"]  # [iou, recall, class, area, limit], without recall
        scores = {
            "AP": _mean(precision[:, :, :, 0, -1]),
            "AP50": _mean(precision[0, :, :, 0, -1]),
            "AP75": _mean(precision[5, :, :, 0, -1]),
        }
        scores |= {f"AP_{area}": _mean(precision[:, :, :, a, -1]) for a, area in enumerate(rule.areas) if a > 0}
        if self.kind == "keypoints":
            scores |= {f"AR{name}": _mean(recall[t, :, 0, -1]) for name, t in (("", slice(None)), ("50", 0), ("75", 5))}
        else:
            scores |= {f"AR{limit}": _mean(recall[:, :, 0, m]) for m, limit in enumerate(rule.limits)}
        scores |= {f"AR_{area}": _mean(recall[:, :, a, -1]) for a, area in enumerate(rule.areas) if a > 0}
        classes = self.collector.source.classes
        scores |= {f"AP/{name}": _mean(precision[:, :, k, 0, -1]) for k, name in enumerate(classes)}
        scores |= {f"AP50/{name}": _mean(precision[0, :, k, 0, -1]) for k, name in enumerate(classes)}
        if self.kind == "keypoints" and not self.collector.source.keypoints.sigmas:
            scores["assumed_sigma"] = ASSUMED_SIGMA
        return {rule.prefix + name: value for name, value in scores.items()}

    def precision_recall(self, iou_threshold: float = 0.5) -> PrecisionRecall:
        """The curves behind `compute` for objects of all sizes at one of COCO's thresholds, 0.5 to 0.95 by 0.05."""
        if round(iou_threshold, 2) not in IOU_THRESHOLDS:
            raise ValueError(f"iou_threshold must be one of {IOU_THRESHOLDS}, got {iou_threshold}")
        tables = self._evaluate()
        t = IOU_THRESHOLDS.index(round(iou_threshold, 2))
        precision = tables["precision"][t, :, :, 0, -1].T
        scores = tables["scores"][t, :, :, 0, -1].T
        return PrecisionRecall(
            iou_threshold=iou_threshold,
            classes=self.collector.source.classes,
            recall=np.linspace(0.0, 1.0, 101),
            precision=np.where(precision < 0, np.nan, precision),
            scores=np.where(precision > 0, scores, np.nan),
        )

    def results(self) -> list[dict[str, Any]]:
        """All detections in COCO's result format; see `DetectionCollector.results`."""
        return self.collector.results()

    def _evaluate(self) -> dict[str, np.ndarray]:
        # An image comes only once, so that their number says whether anything has come since.
        seen = len(self.collector.seen)
        if self._tables is None or self._tables[0] != seen:
            self._tables = (seen, coco_tables(self.collector, self.kind))
        return self._tables[1]


def _mean(values: np.ndarray) -> float:
    """COCO marks entries without objects with -1 and leaves them out of means."""
    present = values[values > -1]
    return float(present.mean()) if present.size else float("nan")
