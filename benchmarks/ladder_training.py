"""What the runs of a ladder say of their own training: whether it is finished, and how long it took."""

import json
from typing import Any

from configs.base import Recipe
from train.__main__ import runs_of
from train.report import read_metrics


def staged(recipe: Recipe) -> bool:
    """Whether it is trained in stages, whose run ends with no steps of its own."""
    return len(runs_of(recipe)) > 1


def trained(recipe: Recipe) -> bool:
    """Whether the run has reached its last step, and the scores that come after it."""
    rows, last = read_metrics(recipe.run / "metrics.jsonl"), 0 if staged(recipe) else recipe.steps
    return any(row["step"] == last and any(name.startswith("eval/") for name in row) for row in rows)


def describe_training(recipe: Recipe) -> dict[str, Any]:
    """Steps, batch size, and the seconds that the steps took, by the clock and, where the run says so, by all
    processors: without compiling, evaluating and starting."""
    before, seconds, processor = 0, 0.0, 0.0
    rows = [row for row in read_metrics(recipe.run / "metrics.jsonl") if row.get("images_per_second")]
    for row in rows:
        seconds += (row["step"] - before) * recipe.batch_size / row["images_per_second"]
        processor += row.get("processor_seconds", 0.0)
        before = row["step"]
    found = {"steps": recipe.steps, "batch_size": recipe.batch_size, "seconds": round(seconds, 2)}
    known = rows and all("processor_seconds" in row for row in rows)
    return {**found, "processor_seconds": round(processor, 2)} if known else found


def describe_stages(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The seconds of each stage that makes something: of runs those of their steps, as above, of others all of them.

    Nothing for what is trained in one run.
    """
    file = recipe.run / "stages.json"
    record = json.loads(file.read_text()) if file.exists() else {}
    runs = {name: describe_training(run) for name, run in runs_of(recipe).items() if run.steps}
    timed = {name: value for name, value in record.items() if isinstance(value, dict) and "seconds" in value}
    return {name: runs.get(name, value) for name, value in timed.items() if name != "detector"}
