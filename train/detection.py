"""What training and evaluating a detector needs besides the model: its scores, its table, its part of the report."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from configs.detectors import Detector
from segjax.data.source import Source, Vocabulary
from segjax.evaluation.detection_evaluator import DetectionEvaluator
from segjax.evaluation.evaluator import CollectedDetections, DetectionCollector
from segjax.evaluation.text import text_table
from segjax.types import Detections
from segjax.visualize import save_png
from train.detection_pictures import draw_found
from train.report_detection import write_detection_report
from train.runtime import picture_name, write_text


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
        self.detections = DetectionEvaluator(
            source, classes=vocabulary.classes, kinds=model.kinds, voc="boxes" in model.kinds
        )
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

    def save(self, run: pathlib.Path, part: str) -> list[pathlib.Path]:
        """Writes all detections in COCO's result format."""
        file = run / f"detections_{part}.json"
        write_text(file, json.dumps(self.detections.results()) + "\n")
        return [file]


class DetectionPredictions:
    """Draws what is found in images, and writes all of it as JSON.

    Args:
      out: the folder for a picture of each image and detections.json.
      score: detections below it are left out of the pictures.
    """

    def __init__(self, source: Source, vocabulary: Vocabulary, out: pathlib.Path, *, score: float = 0.5) -> None:
        self._source, self._out, self._score = source, out, score
        self._found = DetectionCollector(source, classes=vocabulary.classes)

    def update(self, samples: Any, sizes: Any, detections: Detections) -> None:
        """Takes what was found in a batch."""
        self._found.update(samples, sizes, detections)

    def compute(self) -> dict[str, float]:
        """No scores."""
        return {}

    def write(self) -> str:
        """Writes the pictures and the JSON, and says how much was drawn."""
        rows, classes = self._found.collected(), self._source.classes
        drawn = sum(self._draw(sample, rows) for sample in self._found.seen)
        # The same category ids as a COCO file with these classes, counted from 1, would have.
        results = [{**row, "category": classes[row["category_id"] - 1]} for row in self._found.results()]
        write_text(self._out / "detections.json", json.dumps(results) + "\n")
        return (
            f"{len(self._found.seen)} images, {drawn} detections of score {self._score} and more; pictures and "
            f"detections.json in {self._out}"
        )

    def _draw(self, sample: int, rows: CollectedDetections) -> int:
        shown = rows.select((rows.samples == sample) & (rows.scores >= self._score))
        image, source = self._source.image(sample), self._source
        picture = draw_found(image, shown, classes=source.classes, keypoints=source.keypoints)
        save_png(self._out / picture_name(source, sample), picture)
        return len(shown.scores)
