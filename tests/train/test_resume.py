"""A run that was stopped and started again is, bit for bit, the run that was never stopped: with real processes."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests import tiny
from tests.conftest import CACHE
from train import evaluate, predict
from train.recipes import load_run
from train.step import data_mesh

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 24
RECIPE = {
    "data.format": "coco",
    "data.train": "train.json",
    "data.val": "val.json",
    "data.images": "train val none",
    "data.buckets": "64 64 64 96",
    "data.capacity": "4",
    "data.scales": "0.8 1.3",
    "data.color": "0.2",
    "model.width": "8",
    "model.channels": "16",
    "model.hidden": "16",
    "model.norm": "batch",
    "model.rpn.samples": "32",
    "model.rpn.candidates": "48 32",
    "model.rpn.proposals": "32 16",
    "model.sampling.samples": "16",
    "model.box.candidates": "48",
    "model.box.detections": "6",
    "optim.lr": "0.001",
    "optim.ema-decay": "0.9",
    "optim.warmup-steps": "4",
    "steps": str(STEPS),
    "batch-size": "2",
    "eval-batch-size": "2",
    "devices": "1",
    "log-every": "1",
    "checkpoint-every": "5",
}
"""The default recipe, made tiny: two shapes, mirrored, scaled and recoloured images, batch norm, AdamW, an average."""


def command(data: pathlib.Path, run: pathlib.Path, **changes: str) -> list[str]:
    options = {**RECIPE, "data.root": str(data), "run": str(run), **changes}
    words = [word for name, value in options.items() for word in (f"--{name}", *value.split())]
    return [sys.executable, "-m", "train", "faster_rcnn_scenes", *words]


def begin(*arguments, **changes) -> subprocess.Popen:
    """Starts a run. Children share the tests' quick compilation and its cache, whichever is compiled first."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(CACHE), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command(*arguments, **changes), cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(child: subprocess.Popen, status: int) -> str:
    """What the child printed, once it has ended with `status`."""
    printed, _ = child.communicate(timeout=300)
    assert child.returncode == status, printed
    return printed


def rows(run: pathlib.Path) -> list[dict]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for_step(child: subprocess.Popen, run: pathlib.Path, step: int) -> None:
    """Until the run has logged `step`."""
    deadline = time.monotonic() + 300
    while not any(row["step"] >= step for row in rows(run)):
        assert child.poll() is None and time.monotonic() < deadline, child.communicate()[0]
        time.sleep(0.002)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    return tiny.write_coco(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> pathlib.Path:
    """The folder of a run that nobody stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    printed = finish(begin(data, run), 0)
    assert "AP50" in printed and str(run / "report.html") in printed
    return run


def losses(run: pathlib.Path) -> list[dict]:
    """The rows of training, without what depends on the clock."""
    timed = ("images_per_second", "processor_seconds", "eval/")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows(run) if "loss" in row]


def state(run: pathlib.Path):
    """The newest checkpoint of a run: parameters, average, statistics, optimiser, key."""
    _, recipe, vocabulary = load_run(run)
    return jax.device_get(evaluate.restore_run(recipe, vocabulary, data_mesh(1))[1])


def assert_same_run(run: pathlib.Path, whole: pathlib.Path) -> None:
    assert losses(run) == losses(whole)
    one, other = state(run), state(whole)
    assert int(one.step) == STEPS and one.average is not None and one.statistics
    leaves = jax.tree_util.tree_leaves_with_path(one)
    assert jax.tree.structure(one) == jax.tree.structure(other) and len(leaves) > 300
    for (path, a), b in zip(leaves, jax.tree.leaves(other)):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=jax.tree_util.keystr(path))
    scores = [{k: v for k, v in rows(r)[-1].items() if k != "eval/images_per_second"} for r in (run, whole)]
    assert scores[0] == scores[1] and "eval/AP" in scores[0]


def test_a_run_logs_each_step_once_and_both_shapes(whole):
    steps = [row["step"] for row in rows(whole)]
    assert steps == [*range(1, STEPS + 1), STEPS]
    assert len({row["loss"] for row in losses(whole)}) == STEPS
    assert {p.name for p in (whole / "checkpoints").iterdir()} == {"step_20", "step_24"}


def test_stopped_by_sigterm(data, whole, tmp_path):
    run = tmp_path / "run"
    child = begin(data, run)
    wait_for_step(child, run, 7)
    child.send_signal(signal.SIGTERM)
    printed = finish(child, 143)
    stopped = rows(run)[-1]["step"]
    assert 7 <= stopped < STEPS
    assert f"stopped at step {stopped}; the same command continues from there" in printed
    printed = finish(begin(data, run), 0)
    assert f"continuing at step {stopped}" in printed
    assert_same_run(run, whole)


def test_killed(data, whole, tmp_path):
    run = tmp_path / "run"
    child = begin(data, run)
    wait_for_step(child, run, 12)
    child.kill()
    finish(child, -signal.SIGKILL)
    assert rows(run)[-1]["step"] < STEPS
    printed = finish(begin(data, run), 0)
    continued = int(printed.split("continuing at step ")[1].split()[0])
    assert continued in (5, 10, 15, 20)
    assert_same_run(run, whole)


def test_other_settings_are_refused(data, whole):
    before = (whole / "config.json").read_text()
    printed = finish(begin(data, whole, **{"optim.lr": "0.5"}), 1)
    assert "error: " in printed and "Traceback" not in printed
    assert "holds a run with optim.lr = 0.001, and this one has 0.5: name another folder with --run" in printed
    assert (whole / "config.json").read_text() == before


def test_a_finished_run_is_scored_again_and_not_trained(data, whole):
    before, logged = state(whole), losses(whole)
    printed = finish(begin(data, whole), 0)
    assert f"continuing at step {STEPS}" in printed and "compiled for images" not in printed and "AP50" in printed
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state(whole))):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert losses(whole) == logged


def test_evaluate_and_predict(data, whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(CACHE))
    evaluate.main([str(whole)])
    assert "AP50" in capsys.readouterr().out
    results = json.loads((whole / "results_val.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert 0 <= results["AP"] <= 1 and None in results.values()  # no object here is large
    for row in json.loads((whole / "detections_val.json").read_text()):
        (x, y, w, h), width = row["bbox"], 64 if row["image_id"] % 2 else 96
        assert 0 <= x and 0 <= y and x + w <= width + 1e-3 and y + h <= 64 + 1e-3 and row["category_id"] in (1, 2, 3)

    folder, out = tmp_path / "images", tmp_path / "out"
    shutil.copytree(data / "val", folder)
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:900])
    (folder / "no.png").write_text("not an image")
    predict.main([str(whole), str(folder), "--out", str(out)])
    printed = capsys.readouterr().err
    assert "4 images, " in printed and "cut.png" in printed and "no.png" in printed
    assert len(list(out.glob("*.png"))) == 4
    found = json.loads((out / "detections.json").read_text())
    assert {row["image_id"] for row in found} <= {str(folder / f"{i}.png") for i in range(4)}
    assert all(row["category"] in tiny.CLASSES for row in found)


def test_evaluate_refuses_other_classes_and_predict_an_empty_folder(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(CACHE))
    other = tiny.write_coco(tmp_path / "other", classes=("disc", "bar", "ring"))
    with pytest.raises(SystemExit, match="class 2 is 'frame' in the model and 'ring' in the data set"):
        evaluate.main([str(whole), "--data-root", str(other)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="the folder .*empty holds no image"):
        predict.main([str(whole), str(tmp_path / "empty")])


def test_a_run_that_diverges_stops_and_keeps_the_state_before(data, tmp_path):
    run = tmp_path / "run"
    changes = {"optim.lr": "1e30", "optim.warmup-steps": "0", "checkpoint-every": "1"}
    printed = finish(begin(data, run, **changes), 1)
    (sentence,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    step = len(rows(run)) + 1
    assert f"error: step {step}: " in sentence and "not finite" in sentence and "loss/rpn_box = " in sentence
    assert "images of the batch: " in sentence and "Traceback" not in printed
    assert int(state(run).step) == step - 1 >= 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state(run).statistics))
