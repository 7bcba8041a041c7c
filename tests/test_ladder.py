"""The ladder: from recipes to a table and a plot, with a toy detector; what is kept, and what is answered."""

import itertools
import json
import subprocess
import time

import jax
import jaxtyping
import pytest
from matplotlib.image import imread

from benchmarks import ladder, ladder_programs
from benchmarks.ladder_table import around
from benchmarks.ladder_training import describe_training
from configs import CONFIGS
from tests import tiny
from train import evaluate, loop
from train.recipes import recipe_from

TOY = '''
"""A detector that knows one number a class."""

import dataclasses, pathlib
import jax, jax.numpy as jnp
from configs.system import System
from segjax.types import Detections, Model
from tests import tiny

@dataclasses.dataclass(frozen=True)
class Toy(System):
    task = "detection"
    kinds = ("boxes",)
    fields = ()

    def scores(self, source, found):
        return {{}}

    def build(self, classes, joints=0):
        def logits(variables, images):
            return jnp.mean(images.astype(jnp.float32), (1, 2)) / 255 @ variables["params"]["weight"]

        def losses(variables, batch, key):
            return {{"error": jnp.mean(logits(variables, batch.images) ** 2)}}, variables

        def predict(variables, images, sizes):
            scores = jax.nn.sigmoid(logits(variables, images))
            boxes = jnp.broadcast_to(jnp.float32([4, 4, 30, 30]), (*scores.shape, 4))
            labels = jnp.broadcast_to(jnp.arange(classes), scores.shape)
            {predict}
            return Detections(boxes, scores, labels, jnp.ones(scores.shape, bool))

        return Model(lambda key, batch: {{"params": {{"weight": jnp.ones((3, classes))}}}}, losses, predict)

RECIPE = tiny.recipe(pathlib.Path({root!r}), pathlib.Path("unused"), model=Toy(), steps=4, {changes})
'''


def write_toy(folder, name, *, predict="", changes="", root=None):
    root = str(root or folder / "data")
    (folder / name).write_text(TOY.format(predict=predict, changes=changes, root=root))
    return str(folder / name)


@pytest.fixture(autouse=True)
def quick_samples(monkeypatch):
    """Without Python's collector before each sample: it walks through what all other tests left behind."""
    monkeypatch.setattr("gc.collect", lambda: None)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with data, a page for the table, and a ladder "toy" of which one system cannot predict one image and one
    is missing. Training and evaluation run in this process, and are listed in `place.started`."""
    tiny.write_coco(tmp_path / "data")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/ladder.md").write_text("above\n<!-- ladder toy -->\nold\n<!-- end of ladder toy -->\nbelow\n")
    broken = write_toy(tmp_path, "broken.py", predict='assert len(images) > 1, "one image is too few"')
    recipes = (write_toy(tmp_path, "good.py"), broken, "missing_scenes")
    monkeypatch.setitem(ladder.LADDERS, "toy", ladder.Ladder("Toys", recipes, {"AP": "AP", "AP 50": "AP50"}))
    monkeypatch.setattr(ladder, "ROOT", tmp_path)
    monkeypatch.setattr(ladder_programs, "AT_LEAST", 0.0)
    started = []

    def in_process(module, *arguments):
        started.append((module, arguments[0].rpartition("/")[2]))
        if module == "train":
            loop.train(*recipe_from(list(arguments), program=module))
        else:
            evaluate.main(list(arguments))

    monkeypatch.setattr(ladder, "run_module", in_process)

    def climb(*more, repeats=2):
        runs = ["--runs", str(tmp_path / "runs"), "--repeats", str(repeats)]
        return ladder.main(["toy", *runs, *more])

    climb.folder, climb.started = tmp_path, started
    climb.results = tmp_path / "benchmarks/results/ladder_toy.json"
    # `jax.stages.Lowered` puts descriptions of the arguments where a batch has arrays.
    jaxtyping.config.update("jaxtyping_disable", True)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam takes a float to an integer's power
        yield climb
    jaxtyping.config.update("jaxtyping_disable", False)


def test_from_recipes_to_table_and_plot_and_on_from_there(place, capsys, monkeypatch):
    assert place() == 1  # two of three failed
    printed = capsys.readouterr()
    report = json.loads(place.results.read_text())
    good, broken, missing = report["rows"]
    broken_too = [("train", "broken.py"), ("train.evaluate", "broken")]
    assert place.started == [("train", "good.py"), ("train.evaluate", "good"), *broken_too]
    assert good["parameters"] == 3 * len(tiny.CLASSES) and "failed" not in good
    assert good["trained"]["steps"] == 4 and good["trained"]["batch_size"] == 2 and good["trained"]["seconds"] > 0
    assert good["scores"]["AP"] == json.loads((place.folder / "runs/good/results_val.json").read_text())["AP"]
    for name, images in {"inference": 1, "inference_in_batches": 2, "training": 2}.items():
        facts = good[name]
        assert (facts["images"], facts["height"], facts["width"]) == (images, 64, 64)
        assert len(facts["seconds"]) == 2 and min(facts["seconds"]) > 0 and facts["memory_mib"] > 0
        # At least the sum over the pixels, once; a step has the gradients beside.
        assert images * 64 * 64 * 3 < facts["flops"] < 30 * images * 64 * 64 * 3
    assert broken["failed"] == "one image is too few" and "no recipe missing_scenes" in missing["failed"]
    assert len(report["cores_of_others"]) == 2 and report["machine"]["packages"]["jax"] == jax.__version__
    assert report["command"].startswith("python -m benchmarks.ladder toy --runs runs")
    page = (place.folder / "docs/ladder.md").read_text()
    assert page.startswith("above\n") and page.endswith("\nbelow\n") and "old" not in page
    assert "| good " in page and "- missing failed: there is no recipe missing_scenes" in page
    assert page.split("-->")[1].split("<!--")[0].strip() in printed.out
    assert imread(place.folder / "docs/ladder_toy.png").std() > 0

    # Trained runs are not trained again, and `--only` touches neither the documentation nor the other rows.
    place.started.clear()
    (place.folder / "docs/ladder.md").write_text("mine")
    recipe = str(place.folder / "good.py")
    assert place("--only", recipe, "--no-train", repeats=1) == 0
    assert place.started == [] and (place.folder / "docs/ladder.md").read_text() == "mine"
    assert json.loads(place.results.read_text()) == report
    (row,) = json.loads((place.folder / "runs/ladder_toy.json").read_text())["rows"]
    assert row["scores"] == good["scores"] and len(row["training"]["seconds"]) == 1

    # Nor is a run taken for that of another recipe.
    (place.folder / "changed").mkdir()
    changed = write_toy(place.folder / "changed", "good.py", changes="seed=5", root=place.folder / "data")
    monkeypatch.setitem(ladder.LADDERS, "toy", ladder.LADDERS["toy"]._replace(recipes=(changed,)))
    assert place("--only", changed) == 1
    assert "seed = 0" in capsys.readouterr().out


def test_a_command_that_is_stopped_keeps_its_rows_and_goes_on(place, monkeypatch, capsys):
    measured = ladder_programs.time_in_turn

    def stopped(systems, rounds):
        yield from itertools.islice(measured(systems, rounds), 2)
        raise KeyboardInterrupt

    recipe = str(place.folder / "good.py")
    monkeypatch.setattr(ladder, "time_in_turn", stopped)
    assert place("--only", recipe) == 130
    assert "the same command continues" in capsys.readouterr().err
    (row,) = json.loads((place.folder / "runs/ladder_toy.json").read_text())["rows"]
    assert len(row["inference"]["seconds"]) == 1
    assert place("--only", recipe, "--redraw") == 0
    assert "| good " in capsys.readouterr().out and (place.folder / "runs/ladder_toy.png").exists()
    with pytest.raises(SystemExit, match="no results"):
        place("--redraw")


def test_a_page_without_a_place_is_refused_before_anything_is_trained(place):
    (place.folder / "docs/ladder.md").write_text("mine")
    with pytest.raises(SystemExit, match="has no place for the table"):
        place()
    assert place.started == []


def test_what_is_not_trained_is_named_where_training_is_not_wanted(place, capsys):
    assert place("--no-train") == 1
    assert "good is not trained to step 4: leave out --no-train" in capsys.readouterr().out
    assert place.started == []


def test_other_images_are_not_compared(place, monkeypatch, capsys):
    tiny.write_coco(place.folder / "others")
    other = write_toy(place.folder, "other.py", root=place.folder / "others")
    recipes = (str(place.folder / "good.py"), other)
    monkeypatch.setitem(ladder.LADDERS, "toy", ladder.LADDERS["toy"]._replace(recipes=recipes))
    monkeypatch.setattr(ladder, "train", lambda name, recipe, allowed: (_ for _ in ()).throw(ValueError("not now")))
    assert place() == 1
    assert "other.py has other images than" in capsys.readouterr().out


def test_every_ladder_compares_what_can_be_compared():
    """Of recipes that there are, all of one task, with a place in the documentation."""
    for name, made in ladder.LADDERS.items():
        recipes = [CONFIGS[recipe] for recipe in made.recipes]
        assert len({recipe.model.task for recipe in recipes}) == 1
        assert len({ladder.images_of(recipe, sizes=made.same_sizes) for recipe in recipes}) == 1
        around(ladder.ROOT / "docs" / made.page, f"ladder {name}")


def test_bad_names_and_numbers_are_answered_in_a_sentence(place):
    with pytest.raises(SystemExit, match="no ladder 'sematic'; there are semantic"):
        ladder.main(["sematic"])
    with pytest.raises(SystemExit, match="--only names 'fcn'; the ladder has .*fcn_scenes"):
        ladder.main(["semantic", "--only", "fcn"])
    with pytest.raises(SystemExit, match="repeats must be at least 1"):
        ladder.main(["semantic", "--repeats", "0"])


CHILD = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path("saved").touch()
    sys.exit(143)
signal.signal(signal.SIGINT, save)
pathlib.Path("ready").touch()
time.sleep({seconds})
sys.exit({status})
"""


def test_a_child_fails_by_a_sentence_and_is_stopped_gently(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seconds, status in (("fine", 0, 0), ("failing", 0, 3), ("stopped", 0, 143), ("slow", 60, 0)):
        (tmp_path / f"{name}.py").write_text(CHILD.format(seconds=seconds, status=status))
    ladder.run_module("fine")
    with pytest.raises(ValueError, match="failing ended with status 3"):
        ladder.run_module("failing")
    with pytest.raises(KeyboardInterrupt):
        ladder.run_module("stopped")
    (tmp_path / "ready").unlink()
    wait, calls = subprocess.Popen.wait, []

    def interrupted(child, timeout=None):
        calls.append(child)
        while len(calls) == 1 and not (tmp_path / "ready").exists():
            time.sleep(0.01)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return wait(child, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ladder.run_module("slow")
    assert (tmp_path / "saved").exists() and calls[0].returncode == 143


def test_seconds_of_training_are_those_of_the_steps(tmp_path):
    recipe = tiny.recipe(tmp_path, tmp_path, batch_size=8)
    lines = [
        {"step": 20, "loss": 1.0, "images_per_second": 16.0},
        {"step": 30, "images_per_second": 40.0, "eval/AP": 0.1, "eval/images_per_second": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert describe_training(recipe)["seconds"] == 20 * 8 / 16 + 10 * 8 / 40
