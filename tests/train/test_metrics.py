"""What a run writes of itself, and how it stops when a loss is lost."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from tests.evaluation.listed import ListedSource, objects
from train.metrics import Diverged, Metrics
from train.times import Times


@pytest.fixture
def source():
    return ListedSource([objects() for _ in range(4)], ids=["a.png", "b.png", "c.png", "d.png"])


def metrics(run, start=0):
    return Metrics(run, start=start, steps=10, batch_size=2, rate=lambda taken: 0.5**taken)


def values(loss, box=0.25):
    return {"loss": jnp.float32(loss), "loss/box": jnp.float32(box), "grad_norm": jnp.float32(1)}


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_row_is_the_mean_of_its_steps(tmp_path, source):
    with metrics(tmp_path) as record:
        for step, loss in enumerate((4, 2, 1), start=1):
            record.stepped(step, values(loss), jnp.array([0, 1]))
            if step != 1:
                record.settle(source)
        record.settle(source)
    first, second = rows(tmp_path)
    assert (first["step"], first["loss"], first["loss/box"], second["step"], second["loss"]) == (2, 3.0, 0.25, 3, 1.0)
    assert first["lr"] == 0.5 and second["lr"] == 0.25  # the rates that steps 2 and 3 were taken with
    assert first["images_per_second"] > 0 and first["processor_seconds"] >= 0


def test_what_was_no_training_counts_in_neither_clock(tmp_path, source):
    with metrics(tmp_path) as record:
        record.exclude(Times(-100.0, -50.0))  # as if that much more had been spent on the step
        record.stepped(1, values(1.0), jnp.array([0, 1]))
        record.settle(source)
    (row,) = rows(tmp_path)
    assert 0.01 < row["images_per_second"] <= 2 / 100 and 50 <= row["processor_seconds"] < 100


def test_rows_after_the_checkpoint_are_dropped(tmp_path, source):
    lines = [{"step": s, "loss": s / 10} for s in (2, 4, 6)]
    partial = '{"step": 7, "lo'
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + partial)
    with metrics(tmp_path, start=4) as record:
        record.stepped(5, values(9.0), jnp.array([0]))
        record.settle(source)
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(2, 0.2), (4, 0.4), (5, 9.0)]


def test_a_score_that_is_not_defined_is_null(tmp_path):
    with metrics(tmp_path) as record:
        record.evaluated(3, {"AP": 0.5, "AP_small": math.nan})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 3, "eval/AP": 0.5, "eval/AP_small": null}\n'


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_lost_loss_names_step_images_and_terms(tmp_path, source, bad):
    with metrics(tmp_path) as record:
        record.stepped(1, values(1.0), jnp.array([0, 1]))
        record.stepped(2, values(bad, box=bad), jnp.array([3, -1]))
        record.stepped(3, values(bad), jnp.array([1, 2]))
        with pytest.raises(Diverged) as error:
            record.settle(source)
    text = str(error.value)
    assert text.startswith("step 2: loss, loss/box not finite (")
    assert f"loss/box = {bad:.4g}" in text and "grad_norm = 1" in text
    assert "images of the batch: d.png." in text and "a.png" not in text
    assert "lower --optim.lr, or set --optim.clip-norm" in text
    assert rows(tmp_path) == []
