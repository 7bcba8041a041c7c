"""Training in stages: what is finished is not done again, and how long each stage took is kept."""

import json
import pathlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from configs.base import Recipe
from train.checkpoints import Checkpoints
from train.loop import train
from train.recipes import check_same, load_run
from train.runtime import say, write_text
from train.times import Times


class Stages:
    """The stages of a run, whose times are kept in `stages.json` in its folder, over all times that it was continued.

    The file holds {stage: {"seconds": on the clock, "processor_seconds": of all cores}} and what else is recorded:
    "made_of", digests of what some of them read.
    """

    def __init__(self, run: pathlib.Path) -> None:
        self._path = run / "stages.json"
        self.record: dict[str, Any] = json.loads(self._path.read_text()) if self._path.exists() else {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds what happens in it to the times of a stage, an interrupted part of it too."""
        begin = Times.now()
        try:
            yield
        finally:
            spent = Times(**self.record.get(name, {"seconds": 0.0, "processor_seconds": 0.0}))
            spent = spent.plus(begin.until(Times.now()))
            self.record[name] = {key: round(value, 3) for key, value in spent._asdict().items()}
            self.write()

    def check(self, *stages: Recipe) -> None:
        """Looks at what there is of the stages that are runs, before any of them goes on.

        Raises:
          ValueError: one was begun with other settings, or for another number of steps, which an ordinary run may
            change: here later stages may have been made of what it was.
        """
        for stage in stages:
            if not (stage.run / "config.json").exists():
                continue
            saved = load_run(stage.run)
            check_same(stage.run, stage, saved.vocabulary)
            if saved.recipe.steps != stage.steps:
                raise ValueError(
                    f"{stage.run} was begun for {saved.recipe.steps} steps, and this is for {stage.steps}; what later "
                    "stages made of it would be of another network: name another folder with --run, or remove that one."
                )

    def same(self, what: str, made_of: str) -> None:
        """Notes what something is made of, by a digest.

        Raises:
          ValueError: it was made of something else before.
        """
        known = self.record.setdefault("made_of", {})
        if known.setdefault(what, made_of) != made_of:
            raise ValueError(
                f"{self._path.parent} has {what} of other proposals or objects than the data has now: put these back, "
                "name another folder with --run, or remove that one."
            )
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
