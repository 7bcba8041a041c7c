"""What training and evaluating a segmenter needs besides the model: scores, a report, predictions on files."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Int
from tqdm import tqdm

from configs.segmenters import Segmenter
from segjax.data.source import DataError, LabelMapSource, Source, Vocabulary
from segjax.evaluation.evaluator import Evaluator, Seen
from segjax.evaluation.segmentation_cleaned import Cleaned
from segjax.evaluation.segmentation_evaluator import SegmentationEvaluator
from segjax.evaluation.segmentation_maps import check_logits, file_maps
from segjax.evaluation.segmentation_text import segmentation_table
from segjax.inference import PredictImages, multi_scale, tiled
from segjax.types import Model, SegmentationMap
from segjax.visualize import draw_segmentation, readable_scale, save_png
from segjax.visualize_maps import has_background, map_colours, save_palette
from train.report_segmentation import write_segmentation_report
from train.runtime import picture_name, write_text


class SegmentationTask:
    """One evaluation of a segmenter on a source. `ValueError` where the vocabulary is not the source's."""

    def __init__(self, model: Segmenter, source: LabelMapSource, vocabulary: Vocabulary) -> None:
        self._source = source
        self.maps = SegmentationEvaluator(source, classes=vocabulary.classes)
        self.evaluators: tuple[Evaluator, ...] = (self.maps,)
        if model.clean_up:
            self.evaluators += (Cleaned(source, classes=vocabulary.classes, method=model.clean_up),)

    def headline(self, results: Mapping[str, float]) -> str:
        """The main scores on one line."""
        names = [name for name in ("mIoU", "pixel_accuracy", "boundary_F", "cleaned_mIoU") if name in results]
        return ", ".join(f"{name.replace('_', ' ')} {results[name]:.3f}" for name in names)

    def table(self, results: Mapping[str, float]) -> str:
        """All scores as text."""
        return segmentation_table(results, self._source.classes)

    def report(self, run: pathlib.Path, results: Mapping[str, float], facts: Mapping[str, Any]) -> pathlib.Path:
        """Writes the run's report and returns its path."""
        return write_segmentation_report(run, self._source, results, self.maps, facts=facts)

    def save(self, run: pathlib.Path, part: str) -> list[pathlib.Path]:
        """Writes the confusion matrix: rows are the truth, columns the prediction, in pixels."""
        file = run / f"confusion_{part}.json"
        content = {"classes": list(self._source.classes), "confusion": self.maps.confusion.tolist()}
        write_text(file, json.dumps(content) + "\n")
        return [file]


def averaged(model: Model, *, scales: tuple[float, ...] = (1.0,), flip: bool = False) -> Model:
    """The model that predicts the average over scaled and mirrored images; see `segjax.inference.multi_scale`."""
    return model._replace(predict=multi_scale(model.predict, scales=scales, flip=flip))


class SegmentationPredictions:
    """Writes, for each image as it comes, a picture of the classes over it and the map of their ids.

    The files are `<name>.png`, and `<name>_classes.png`, a palette image at the size of the image's file whose pixels
    are class ids. Nothing is kept.

    Args:
        source: The images.
        vocabulary: The classes of the model.
        out: The folder.
    """

    def __init__(self, source: Source, vocabulary: Vocabulary, out: pathlib.Path) -> None:
        self._source, self._classes, self._out = source, vocabulary.classes, out
        self._colours = map_colours(vocabulary.classes, getattr(source, "colours", None))
        self._seen = Seen(source)

    def update(
        self,
        samples: Int[Array | np.ndarray, "b"],
        sizes: Int[Array | np.ndarray, "b 2"],
        predictions: SegmentationMap,
    ) -> None:
        """Writes the files of one batch; arguments as in `Evaluator.update`."""
        check_logits(predictions.logits, self._classes)
        maps = file_maps(predictions.logits, sizes, self._seen.add(samples), self._source)
        labels = np.asarray(maps.labels)
        for row, sample in enumerate(maps.samples.tolist()):
            if sample >= 0:
                self._write(sample, maps.cropped(row, labels))

    def tiles(self, predict: PredictImages, *, tile: int, overlap: int) -> None:
        """Predicts every image of the source at its own size, tile by tile, and writes its files.

        What cannot be read is noted in the source's problems. Arguments and errors as in `segjax.inference.tiled`.
        """
        for sample in tqdm(range(len(self._source)), desc="predicting", unit="image", leave=False):
            try:
                image = self._source.image(sample)
            except DataError as error:
                kind, name = getattr(error, "kind", "undecodable image"), self._source.info(sample).image_id
                self._source.problems.add(kind, name, str(error), action="left out")
                continue
            self._write(sample, tiled(predict, image, tile=tile, overlap=overlap))
            self._seen.add(np.array([sample]))

    def compute(self) -> dict[str, float]:
        """No scores."""
        return {}

    def write(self) -> str:
        """Says what was written."""
        return f"{len(self._seen)} images; pictures and maps of class ids (*_classes.png) in {self._out}"

    def _write(self, sample: int, labels: np.ndarray) -> None:
        image = self._source.image(sample)
        path = self._out / picture_name(self._source, sample)
        picture = draw_segmentation(
            image,
            labels,
            self._classes,
            background=has_background(self._classes),
            colours=self._colours,
            scale=readable_scale(*image.shape[:2]),
        )
        save_png(path, picture)
        save_palette(path.with_name(f"{path.stem}_classes.png"), labels, self._colours)
