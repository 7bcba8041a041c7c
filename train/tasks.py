"""What training, evaluating and showing a model needs besides its three functions, for each task there is.

The loop, `train.evaluate`, `train.predict` and `train.inspect` know a task by the members below and by nothing else.
"""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from configs.system import System
from segjax.data import inspection, label_inspection
from segjax.data.buckets import Bucket
from segjax.data.source import LabelMapSource, Source, Vocabulary
from segjax.evaluation.evaluator import Evaluator
from segjax.types import Model
from train.detection import DetectionPredictions, DetectionTask
from train.segmentation import SegmentationPredictions, SegmentationTask, averaged


class Evaluation(Protocol):
    """One evaluation of a model on a source."""

    evaluators: Sequence[Evaluator]

    def headline(self, results: Mapping[str, float]) -> str:
        """The main scores on one line."""
        ...

    def table(self, results: Mapping[str, float]) -> str:
        """All scores as text."""
        ...

    def report(self, run: pathlib.Path, results: Mapping[str, float], facts: Mapping[str, Any]) -> pathlib.Path:
        """Writes the run's report and returns its path."""
        ...

    def save(self, run: pathlib.Path, part: str) -> Sequence[pathlib.Path]:
        """Writes what was found on `part` of the data, beside the scores, and returns the files."""
        ...


class Predictions(Evaluator, Protocol):
    """An evaluator that judges nothing and shows what was predicted."""

    def write(self) -> str:
        """Writes what is not written yet, and says in a sentence what is there."""
        ...


class Inspected(Protocol):
    """What is known of a data set before any training."""

    def text(self) -> str:
        """As lines of text."""
        ...


class Task(NamedTuple):
    """A row of the table."""

    evaluation: Callable[[System, Source, Vocabulary], Evaluation]
    predictions: Callable[..., Predictions]
    """(source, vocabulary, out folder, **options) -> predictions; the options are its own."""
    options: frozenset[str]
    """The options of `train.predict` that it has a use for."""
    averaged: Callable[..., Model] | None
    """(model, scales=, flip=) -> the model that averages over views of an image; None where there is no such."""
    inspect: Callable[..., Inspected]
    """(source, buckets=, capacity=)."""
    picture: Callable[[Source], np.ndarray]
    """A sheet of labelled images."""


def _inspect_label_maps(source: LabelMapSource, *, buckets: Sequence[Bucket], capacity: int) -> Inspected:
    del capacity  # of objects, of which there are none
    return label_inspection.inspect(source, buckets=buckets)


TASKS: dict[str, Task] = {
    "detection": Task(
        DetectionTask,
        DetectionPredictions,
        frozenset({"score", "proposals"}),
        None,
        inspection.inspect,
        inspection.picture,
    ),
    "segmentation": Task(
        SegmentationTask,
        SegmentationPredictions,
        frozenset({"scales", "flip", "tile"}),
        averaged,
        _inspect_label_maps,
        label_inspection.picture,
    ),
}
"""By `System.task`."""


def over_views(task: str, model: Model, *, scales: tuple[float, ...], flip: bool) -> Model:
    """The model that averages over these views of an image; the model itself where none is asked for.

    Raises:
      ValueError: the task has no such.
    """
    if not scales and not flip:
        return model
    average = TASKS[task].averaged
    if average is None:
        raise ValueError(f"--{'scales' if scales else 'flip'} means nothing for {task}; leave it out.")
    return average(model, scales=scales or (1.0,), flip=flip)
