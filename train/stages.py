"""Training in stages: what is finished is not done again, and how long each stage took is kept."""

import json
import os
import pathlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from configs.base import Recipe
from train.checkpoints import Checkpoints
from train.loop import train
from train.recipes import check_same, load_run
from train.runtime import say, write_text


class Stages:
    """The stages of a run, whose times are kept in `stages.json` in its folder, over all times that it was continued.

    The file holds {stage: {"seconds": on the clock, "processor_seconds": of all cores}} and what else is recorded.
    """

    def __init__(self, run: pathlib.Path) -> None:
        self._path = run / "stages.json"
        self.record: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds what happens in it to the times of a stage, an interrupted part of it too."""
        before = time.perf_counter(), _processor_seconds()
        try:
            yield
        finally:
            spent = time.perf_counter() - before[0], _processor_seconds() - before[1]
            old = self.record.get(name, {"seconds": 0.0, "processor_seconds": 0.0})
            self.record[name] = {key: round(old[key] + more, 3) for key, more in zip(old, spent)}
            self.write()

    def write(self, **values: Any) -> None:
        """Writes the file, with these values beside the stages."""
        self.record |= values
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps(self.record, indent=2) + "\n")

    def train(self, stage: str, name: str, recipe: Recipe) -> bool:
        """Trains a stage that is an ordinary run, unless it is finished. False where it was stopped.

        Raises:
          ValueError: the folder holds a finished run of another recipe.
        """
        if finished(recipe):
            say(f"{stage} is finished: {recipe.run}")
            check_same(recipe.run, recipe, load_run(recipe.run).vocabulary)
            return True
        with self.timed(stage):
            return train(name, recipe) is not None


def finished(recipe: Recipe) -> bool:
    """Whether a run has been trained to its end."""
    checkpoints = Checkpoints(recipe.run)
    try:
        return checkpoints.latest == recipe.steps
    finally:
        checkpoints.close()


def _processor_seconds() -> float:
    """Of this process and its ended children, over all cores."""
    return sum(os.times()[:4])
