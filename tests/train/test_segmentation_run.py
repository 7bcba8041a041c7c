"""A segmenter through every command: trained, evaluated over views and superpixels, shown whole and in tiles."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from configs.base import Optim, Recipe
from configs.data import Data, Masks
from configs.historic_segmenters import UNet
from segjax.types import IGNORE
from tests import tiny
from tests.conftest import CACHE
from train import evaluate, predict
from train.inspect import main as inspect
from train.loop import train
from train.recipes import check_same, load_run

CLASSES = ("ground", *tiny.CLASSES)
# optax's Adam takes a float to an integer's power, which the strict promotion of the tests forbids.
SGD = Optim(lr=1e-2, schedule="constant", warmup_steps=0)


def write_masks(root: pathlib.Path, *, count: int = 4) -> pathlib.Path:
    """Images of painted rectangles and masks of their classes, with a frame that does not count."""
    for part in ("train", "val"):
        rng = np.random.default_rng(len(part))
        for kind in ("images", "masks"):
            (root / kind / part).mkdir(parents=True)
        for i in range(count):
            box, label = np.array([8 + i, 10, 40 + i, 50]), i % len(tiny.CLASSES)
            mask = np.zeros((64, 64), np.uint8)
            mask[box[1] : box[3], box[0] : box[2]] = label + 1
            mask[:2] = IGNORE
            Image.fromarray(tiny.painted(rng, 64, 64, [box], [label])).save(root / "images" / part / f"{i}.png")
            Image.fromarray(mask).save(root / "masks" / part / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    """The recipe of a run that has been trained for three steps."""
    root = tmp_path_factory.mktemp("segmentation")
    write_masks(root / "data")
    masks = Masks(folders=("masks/train", "masks/val", ""))
    folders = {"format": "folders", "train": "images/train", "val": "images/val", "masks": masks}
    data = Data(root=root / "data", **folders, classes=CLASSES, buckets=((64, 64),))
    model = UNet(width=4, levels=1, norm="group", dropout=0.0)
    steps = {"steps": 3, "batch_size": 2, "eval_batch_size": 2, "devices": 1, "log_every": 1}
    recipe = Recipe(model=model, data=data, optim=SGD, run=root / "run", **steps)
    scores = train("tiny", recipe)
    assert 0 <= scores["mIoU"] <= 1 and 0 <= scores["boundary_F"] <= 1
    assert "confusion" in (recipe.run / "report.html").read_text().lower()
    return recipe


@pytest.fixture(autouse=True)
def cache(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(CACHE))


def results(run: pathlib.Path) -> dict[str, float]:
    return json.loads((run / "results_val.json").read_text())


def test_what_is_trained_is_scored_again_alike(recipe, capsys):
    evaluate.main([str(recipe.run)])
    assert "ground" in capsys.readouterr().out
    rows = [json.loads(line) for line in (recipe.run / "metrics.jsonl").read_text().splitlines()]
    logged = next(row["eval/mIoU"] for row in rows if "eval/mIoU" in row)
    assert results(recipe.run)["mIoU"] == pytest.approx(logged)
    confusion = json.loads((recipe.run / "confusion_val.json").read_text())
    assert confusion["classes"] == list(CLASSES)
    assert np.sum(confusion["confusion"]) == 4 * 62 * 64  # the frame does not count


def test_views_and_superpixels_change_what_is_scored(recipe):
    evaluate.main([str(recipe.run)])
    plain = results(recipe.run)
    evaluate.main([str(recipe.run), "--scales", "0.5", "1", "--flip", "--clean-up", "slic"])
    averaged = results(recipe.run)
    assert averaged["boundary_F"] != plain["boundary_F"] and "cleaned_mIoU" in averaged and "cleaned_mIoU" not in plain


@pytest.mark.parametrize("options", [[], ["--tile", "32"], ["--scales", "1", "0.5", "--flip"]])
def test_images_are_shown_at_their_own_size(recipe, tmp_path, options, capsys):
    shown = tmp_path / "shown"
    shown.mkdir()
    wide = np.tile(np.array(Image.open(recipe.data.root / "images" / "val" / "0.png")), (1, 2, 1))[:50, :100]
    Image.fromarray(wide).save(shown / "wide.png")
    (shown / "no.png").write_text("not an image")
    predict.main([str(recipe.run), str(shown), "--out", str(tmp_path / "out"), *options])
    assert "1 images; " in (said := capsys.readouterr().err) and "no.png" in said
    (classes,) = (tmp_path / "out").glob("*_classes.png")
    ids = np.array(Image.open(classes))
    assert ids.shape == (50, 100) and ids.max() < len(CLASSES)


def test_options_of_other_tasks_are_refused(recipe, tmp_path):
    with pytest.raises(SystemExit, match="--score means nothing for .*, a run of segmentation"):
        predict.main([str(recipe.run), str(recipe.data.root / "images" / "val"), "--score", "0.3"])
    detector = dataclasses.replace(recipe, model=tiny.MODEL)
    with pytest.raises(ValueError, match="--clean-up means nothing for a run of detection"):
        evaluate.cleaned(detector.model, "slic")


def test_how_a_run_is_scored_is_no_part_of_what_was_trained(recipe):
    saved = load_run(recipe.run)
    cleaned = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, clean_up="slic"))
    check_same(recipe.run, cleaned, saved.vocabulary)
    wider = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, width=8))
    with pytest.raises(ValueError, match="model.width = 4, and this one has 8"):
        check_same(recipe.run, wider, saved.vocabulary)


def test_inspection_draws_label_maps(recipe, tmp_path, monkeypatch, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs.base import Recipe\nfrom configs.historic_segmenters import UNet\nRECIPE = Recipe(UNet())\n"
    )
    data = ["--data.format", "folders", "--data.root", str(recipe.data.root), "--data.classes", *CLASSES]
    parts = ["--data.train", "images/train", "--data.val", "images/val"]
    folders = ["--data.masks.folders", "masks/train", "masks/val", ""]
    inspect([str(file), "--run", str(tmp_path / "run"), *data, *parts, *folders])
    assert "frame" in capsys.readouterr().out and (tmp_path / "run" / "inspect_val.png").exists()
