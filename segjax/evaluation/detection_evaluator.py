"""All scores of a detector behind one `Evaluator`: its detections are collected once, however many scores there are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Int

from segjax.data.source import Source
from segjax.evaluation.coco_ap import CocoAP
from segjax.evaluation.evaluator import DetectionCollector
from segjax.evaluation.voc_ap import VocAP
from segjax.types import Detections


class DetectionEvaluator:
    """COCO's scores of boxes, masks and joints and VOC's of boxes, from one `DetectionCollector`.

    Attributes:
        collector: What was detected, in original pixels, for scores of one's own (`matched_objects`) and pictures.
        coco: The COCO evaluation of each kind.
        voc: The VOC evaluation of boxes, None without.
    """

    def __init__(
        self, source: Source, *, classes: Sequence[str], kinds: Sequence[str] = ("boxes",), voc: bool = True
    ) -> None:
        """Makes an evaluation that has seen nothing.

        Args:
            source: The data to evaluate on.
            classes: The class map of the model; `ValueError` where it is not that of `source`.
            kinds: What is scored: "boxes", "masks", "keypoints". `ValueError` for another, for joints that `source`
                does not have, and, when the scores are computed, for what the detections do not have.
            voc: Score boxes by VOC's rules too.
        """
        self.collector = DetectionCollector(source, classes=classes)
        shared = {"classes": classes, "collector": self.collector}
        self.coco = {kind: CocoAP(source, kind=kind, **shared) for kind in kinds}
        self.voc = VocAP(source, **shared) if voc else None

    def update(
        self, samples: Int[Array | np.ndarray, "b"], sizes: Int[Array | np.ndarray, "b 2"], detections: Detections
    ) -> None:
        """Adds the detections of one batch; arguments as in `Evaluator.update`."""
        self.collector.update(samples, sizes, detections)

    def compute(self) -> dict[str, float]:
        """The scores of every kind by name, as `CocoAP.compute` and `VocAP.compute` name them."""
        scores = [*self.coco.values(), *([self.voc] if self.voc else [])]
        return {name: value for score in scores for name, value in score.compute().items()}

    def results(self) -> list[dict[str, Any]]:
        """All detections in COCO's result format; see `DetectionCollector.results`."""
        return self.collector.results()
