"""What training and evaluating a detector needs besides the model: its scores, its table, its part of the report."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from configs.models import Detector
from segjax.data.source import Source, Vocabulary
from segjax.evaluation.detection_evaluator import DetectionEvaluator
from segjax.evaluation.evaluator import DetectionCollector
from segjax.evaluation.text import text_table
from train.report_detection import write_detection_report


class OwnScores:
    """The further scores that a model's configuration defines, on detections that another evaluator collects."""

    def __init__(self, model: Detector, source: Source, collector: DetectionCollector) -> None:
        self._model, self._source, self._collector = model, source, collector

    def update(self, *batch: Any) -> None:
        """Nothing: the collector has it."""

    def compute(self) -> dict[str, float]:
        """What `Detector.scores` says."""
        return {name: float(value) for name, value in self._model.scores(self._source, self._collector).items()}


class DetectionTask:
    """One evaluation of a detector on a source. `ValueError` where the vocabulary is not the source's."""

    def __init__(self, model: Detector, source: Source, vocabulary: Vocabulary) -> None:
        self._source = source
        self.detections = DetectionEvaluator(source, classes=vocabulary.classes, kinds=model.kinds)
        self.evaluators = (self.detections, OwnScores(model, source, self.detections.collector))

    def headline(self, results: Mapping[str, float]) -> str:
        """The main scores on one line."""
        names = [name for name in ("AP", "mask_AP", "keypoint_AP") if name in results]
        return ", ".join(f"{name.replace('_', ' ')} {results[name]:.3f}" for name in names)

    def table(self, results: Mapping[str, float]) -> str:
        """All scores as text."""
        return text_table(results, self._source.classes)

    def report(self, run: pathlib.Path, results: Mapping[str, float], facts: Mapping[str, Any]) -> pathlib.Path:
        """Writes the run's report and returns its path."""
        return write_detection_report(run, self._source, results, self.detections, facts=facts)

    def found(self) -> Sequence[Mapping[str, Any]]:
        """All detections in COCO's result format."""
        return self.detections.results()
