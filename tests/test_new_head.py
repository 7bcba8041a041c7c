"""The tutorial docs/new_head.md: its commands and code as they stand there, and what it says of them."""

import base64
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from segjax.data import scenes
from segjax.evaluation.evaluator import DetectionCollector
from segjax.models.heads.roi import RoIHead, RoIs
from segjax.types import Detections, Instances
from tests.conftest import CACHE
from tests.evaluation.listed import ListedSource, detections, objects
from tests.train.test_resume import RECIPE, finish, rows
from train import evaluate
from train.detection_pictures import draw_truth
from train.recipes import load_module, load_run

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "new_head.md"
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, _, text in BLOCKS if kind == "sh" for line in text.splitlines()]
PERIODS = np.array([180.0, 360.0, 0.0])
OPTIONS = {
    **{name: value for name, value in RECIPE.items() if name.startswith(("model.", "optim.", "eval-", "devices"))},
    "data.format": "coco",
    "data.train": "train/instances.json",
    "data.val": "val/instances.json",
    "data.images": "train/images val/images none",
    "data.buckets": "64 64",
    "model.box.score-threshold": "0.01",
    "steps": "2",
    "batch-size": "2",
    "log-every": "1",
}


def block(name: str) -> str:
    """The code of one file of the page."""
    return "".join(text for _, given, text in BLOCKS if given == name)


def command(start: str) -> str:
    """The one command of the page that begins so."""
    (found,) = [line for line in COMMANDS if line.startswith(start)]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A folder with `my_angle.py`, written by the page's own command."""
    folder = tmp_path_factory.mktemp("new_head")
    (folder / "docs").mkdir()
    shutil.copy(PAGE, folder / "docs")
    subprocess.run(command("sed"), shell=True, cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def mine(folder):
    """`my_angle.py` as a module."""
    return load_module(folder / "my_angle.py")


def test_the_command_writes_all_blocks(folder):
    assert (folder / "my_angle.py").read_text() == block("my_angle.py")


def test_the_trial_prints_what_the_page_says(mine, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_angle", mine)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(block("try_angle.py"), {})
    (expected,) = [text for kind, _, text in BLOCKS if kind == "text"]
    assert printed.getvalue() == expected


def head_of(mine):
    return mine.AngleHead(mine.AngleNetwork(3), tuple(PERIODS.tolist()))


def some_truth(rng, *, slots=6, regions=8):
    """Objects, the last of them padding and some of unknown angle, and regions of some of them."""
    angle = np.where(rng.random(slots) < 0.3, np.nan, rng.uniform(-180, 180, slots)).astype(np.float32)
    angle[0], angle[-1] = np.nan, 0
    labels, valid = rng.integers(0, 3, slots), np.arange(slots) < slots - 1
    boxes = np.zeros((slots, 4), np.float32)
    instances = Instances(boxes, labels, valid, extra={"angle": angle})
    target = rng.integers(0, slots - 1, regions)
    target[0], positive = 0, rng.random(regions) < 0.8
    rois = RoIs(np.zeros((regions, 4), np.float32), target, positive, positive | (rng.random(regions) < 0.5))
    return jax.tree.map(jnp.asarray, (rois, instances))


def test_targets_are_the_angles_of_the_objects(mine, rng):
    head, learnt_regions = head_of(mine), 0
    assert isinstance(head, RoIHead)
    for _ in range(10):
        rois, instances = some_truth(rng)
        direction, label, learnt = jax.device_get(head.targets(rois, instances, jnp.array([9, 9])))
        for i, j in enumerate(np.asarray(rois.target)):
            angle, period = float(instances.extra["angle"][j]), PERIODS[instances.labels[j]]
            assert label[i] == instances.labels[j]
            assert learnt[i] == (bool(rois.positive[i]) and not np.isnan(angle) and period > 0)
            if learnt[i]:
                turn = np.deg2rad(angle * 360 / period)
                np.testing.assert_allclose(direction[i], [np.cos(turn), np.sin(turn)], atol=1e-5)
        learnt_regions += learnt.sum()
    assert 20 < learnt_regions < 60


def test_the_loss_is_the_mean_over_what_is_learnt_and_nan_reaches_no_gradient(mine, rng):
    head = head_of(mine)
    rois, instances = jax.tree.map(lambda *x: jnp.stack(x), some_truth(rng), some_truth(rng))
    outputs = jnp.asarray(rng.normal(size=(2, 8, 3, 2)), jnp.float32)

    def loss(outputs, rois):
        targets = jax.vmap(head.targets)(rois, instances, jnp.full((2, 2), 9))
        return head.losses(outputs, targets, rois)["angle"], targets

    (value, (direction, label, learnt)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(outputs, rois)
    errors = [
        np.sum((outputs[i, j, label[i, j]] - direction[i, j]) ** 2) for i, j in zip(*np.nonzero(np.asarray(learnt)))
    ]
    assert len(errors) > 3 and np.isnan(instances.extra["angle"]).any()
    assert float(value) == pytest.approx(np.mean(errors), rel=1e-5)
    np.testing.assert_array_equal(np.any(np.asarray(gradient), axis=(2, 3)), learnt)
    nothing = jax.value_and_grad(loss, has_aux=True)(outputs, rois._replace(positive=jnp.zeros((2, 8), bool)))
    assert float(nothing[0][0]) == 0 and not np.any(nothing[1])


def test_decoding_gives_back_what_was_taught(mine, rng):
    head, compared = head_of(mine), 0
    for _ in range(5):
        rois, instances = some_truth(rng)
        direction, label, learnt = head.targets(rois, instances, jnp.array([9, 9]))
        found = Detections(rois.boxes, jnp.ones(8), label, rois.valid, extra={"other": jnp.ones(8)})
        decoded = head.decode(jnp.stack([direction] * 3, axis=1), found, jnp.array([9, 9]))
        angle, period = np.asarray(decoded.extra["angle"]), PERIODS[label]
        np.testing.assert_array_equal(np.isnan(angle), ~np.asarray(rois.valid) | (period == 0))
        of_object = np.asarray(instances.extra["angle"])[rois.target]
        for i in np.flatnonzero(np.asarray(learnt)):
            turns = (angle[i] - of_object[i]) / period[i]
            assert abs(turns - round(turns)) < 1e-4 and abs(angle[i]) <= period[i] / 2
            compared += 1
        chex.assert_trees_all_equal(decoded.replace(extra={"other": decoded.extra["other"]}), found)
    assert compared > 8


def test_its_error_is_counted_around_the_circle(mine):
    """Two rectangles at 85 that are said to be at -85 and 45, a star at 30 said to be at -34, a ring, one unknown."""
    boxes = np.array([[0, 0, 20, 20], [30, 0, 50, 20], [60, 0, 80, 20], [0, 30, 20, 50], [30, 30, 50, 50]], np.float32)
    labels, truth = [3, 3, 5, 6, 0], np.array([85, 85, 30, 0, np.nan], np.float32)
    one = objects(boxes, labels)
    source = ListedSource([one], classes=scenes.CLASSES)
    one.attributes["angle"] = truth
    found = detections([(box, 0.9, label) for box, label in zip(boxes, labels)])
    found = found.replace(extra={"angle": np.array([[-85, 45, -34, np.nan, 3]], np.float32)})
    collector = DetectionCollector(source, classes=source.classes)
    collector.update(np.array([0]), np.array([[100, 120]]), found)
    scores = mine.RECIPE.model.scores(source, collector)
    known = {name: value for name, value in scores.items() if np.isfinite(value)}
    assert known == pytest.approx(
        {
            "angle_error/rectangle": 25.0,
            "angle_error_of_0/rectangle": 85.0,
            "angle_error/star": 8.0,
            "angle_error_of_0/star": 30.0,
        }
    )
    assert set(scores) - set(known) == {
        f"{score}/{name}"
        for score in ("angle_error", "angle_error_of_0")
        for name in ("person", "digit", "circle", "triangle", "cross")
    }


def test_the_recipe_fits_the_scenes(mine):
    recipe = mine.RECIPE
    assert len(recipe.model.periods) == len(scenes.CLASSES) and recipe.model.fields == ("angle",)
    assert recipe.data.flip == 0 and recipe.model.sampling.positives == 32
    with pytest.raises(ValueError, match="model.periods has 8 entries for 3 classes"):
        recipe.model.heads(3, 0)


@pytest.fixture(scope="module")
def run(folder) -> pathlib.Path:
    """A run of two steps on a few small scenes, begun with the page's command and options that make it small."""
    small = scenes.Options(sizes=((64, 64),), max_objects=3, empty=0.0, diameters=(14.0, 30.0))
    for seed, part in enumerate(("train", "val")):
        scenes.generate(folder / "tiny" / part, count=4, seed=seed, options=small)
    words = command("python -m train ").split()[1:]
    options = {"data.root": str(folder / "tiny"), **OPTIONS}
    words += [word for name, value in options.items() for word in (f"--{name}", *value.split())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(CACHE)}
    child = subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    printed = finish(child, 0)
    assert "angle_error_of_0" in printed
    return folder / "runs" / "my_angle"


def test_its_loss_is_logged(run):
    losses = [row["loss/angle"] for row in rows(run) if "loss/angle" in row]
    assert len(losses) == 2 and losses[0] == pytest.approx(1.0, abs=0.5)  # "begins near 1"


def test_the_report_shows_it(run):
    page = (run / "report.html").read_text()
    assert "<th>angle_error</th>" in page and "<title>angle</title>" in page  # the scores, the curve of the loss
    address, caption = re.search(r'<img src="data:image/\w+;base64,([^"]+)" alt="([^"]+)"', page).groups()
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(address))).convert("RGB"), np.float32)
    source = load_run(run).recipe.data.source("val", fields=("angle",))
    (sample,) = [i for i in range(len(source)) if caption.startswith(f"Image {source.info(i).image_id}:")]
    image, truth = source.image(sample), source.annotations(sample)
    named = draw_truth(image, truth, classes=source.classes).astype(np.float32)
    unnamed = draw_truth(image, dataclasses.replace(truth, attributes={}), classes=source.classes).astype(np.float32)
    height, width = named.shape[:2]
    left = drawn[8 : 8 + height, 8 : 8 + width]  # the truth; eight white pixels around
    # JPEG changes every pixel a little; the captions' pixels change by far more.
    assert np.abs(left - named).mean() < 0.5 * np.abs(left - unnamed).mean()


def test_detections_say_it(run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(CACHE))
    evaluate.main(command("python -m train.evaluate").split()[3:])
    found = json.loads((run / "detections_val.json").read_text())
    ring = 1 + scenes.CLASSES.index("ring")
    assert {row["category_id"] == ring for row in found} == {True, False}
    assert all((row["angle"] is None) == (row["category_id"] == ring) for row in found)
