"""Recipes: each builds, survives config.json, and takes options from the command line."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import CONFIGS
from configs.base import Data, Optim, Recipe, Start
from configs.detectors import MaskRCNN, RegionDetector, SingleMapRCNN
from segjax.data.buckets import check_buckets
from segjax.data.source import KeypointNames, Vocabulary
from segjax.models.layers.resnet import ResNet
from segjax.pretrained import merge
from tests import tiny
from train.optim import schedule
from train.recipes import check_same, load_run, recipe_from, save_run
from train.runtime import finite, one_sentence
from train.state import check_frozen

WORDS = Vocabulary(("a", "b"))
JOINTS = Vocabulary(("a", "b"), KeypointNames(("top", "left_x", "right_x"), ((0, 1),), (0, 2, 1), (0.1, 0.2, 0.2)))


def parse(*arguments):
    return recipe_from(list(arguments), program="python -m train", default="faster_rcnn_scenes")


@pytest.mark.parametrize("name", CONFIGS)
def test_config_json_holds_a_whole_recipe(name, tmp_path):
    start = Start(weights=pathlib.Path("some/weights.pth"), name="resnet50")
    optim = dataclasses.replace(CONFIGS[name].optim, clip_norm=None, ema_decay=0.99, freeze=("backbone/stem",))
    for i, recipe in enumerate((CONFIGS[name], dataclasses.replace(CONFIGS[name], start=start, optim=optim))):
        recipe = dataclasses.replace(recipe, run=tmp_path / str(i), loss_weights=(("box", 2.0),))
        recipe.run.mkdir()
        save_run(name, recipe, (WORDS, JOINTS)[i])
        loaded = load_run(recipe.run)
        assert loaded == (name, recipe, (WORDS, JOINTS)[i])
        assert hash(loaded[1]) == hash(recipe)  # tuples are tuples again


@pytest.mark.parametrize("name", CONFIGS)
def test_recipes_are_sound(name, key):
    recipe = CONFIGS[name]
    # Detectors pad nothing themselves; segmenters pad to their own strides.
    multiple = recipe.model.multiple if recipe.model.task == "detection" else 4
    assert all(side % multiple == 0 for bucket in check_buckets(recipe.data.buckets) for side in bucket)
    if recipe.model.task == "segmentation":
        check_segmenter(recipe, key)
        return
    # Some single-shot detectors are made for images of one size.
    side = tiny.SIDE if isinstance(recipe.model, RegionDetector) else min(recipe.data.buckets[0])
    model, batch = recipe.model.build(3, tiny.JOINTS), tiny.with_everything(tiny.batch_of([([], [])], side=side))
    variables = jax.eval_shape(model.init, key, batch)
    check_frozen(variables["params"], recipe.optim.freeze)
    if recipe.data.proposals[0]:
        assert recipe.data.proposals[1]
        batch = batch.replace(proposals=tiny.no_proposals(1))
    if not isinstance(recipe.model, RegionDetector):
        losses, _ = jax.eval_shape(model.losses, variables, batch, key)
        assert losses and all(value.shape == () for value in losses.values())
        return
    if recipe.model.system == "fast_rcnn":
        losses, _ = jax.eval_shape(model.losses, variables, batch, key)
        assert set(losses) == {"class", "box"} and recipe.data.proposals[0]
        return
    losses, _ = jax.eval_shape(model.losses, variables, batch, key)
    more = {"masks": "mask", "keypoints": "keypoint"}
    assert set(losses) == {"rpn_objectness", "rpn_box", "class", "box", *(more[f] for f in recipe.model.fields)}
    rate = schedule(recipe.optim, recipe.steps)
    assert float(rate(0)) < float(rate(recipe.optim.warmup_steps)) == pytest.approx(recipe.optim.lr)


def check_segmenter(recipe, key):
    """It learns from label maps of as many classes as its data or its losses' weights say."""
    assert recipe.model.fields == ("label_map",)
    model, batch = recipe.model.build(len(recipe.data.classes) or 9), tiny.batch_of([([], [])])
    batch = batch.replace(label_map=np.zeros(batch.images.shape[:3], np.uint8))
    variables = jax.eval_shape(model.init, key, batch)
    losses, after = jax.eval_shape(model.losses, variables, batch, key)
    assert "cross_entropy" in losses and jax.tree.structure(after) == jax.tree.structure(variables)
    height, width = recipe.data.buckets[0]
    images = jax.ShapeDtypeStruct((1, height, width, 3), np.uint8)
    sizes = jax.ShapeDtypeStruct((1, 2), np.int32)
    logits = jax.eval_shape(lambda *given: model.predict(*given).logits, variables, images, sizes)
    assert logits.shape[:3] == (1, height, width)
    assert all(value.shape == () for value in losses.values())


def test_options_reach_nested_fields():
    name, recipe = parse(
        "faster_rcnn_coco", "--optim.lr", "3e-4", "--model.rpn.samples", "7", "--data.scales", "0.5", "2"
    )
    assert name == "faster_rcnn_coco" and recipe.run == pathlib.Path("runs/faster_rcnn_coco")
    assert (recipe.optim.lr, recipe.model.rpn.samples, recipe.data.scales) == (3e-4, 7, (0.5, 2.0))
    assert recipe.model.box == CONFIGS[name].model.box and recipe.data.train == CONFIGS[name].data.train
    assert parse("--steps", "3")[1].steps == 3 and parse("--steps", "3")[0] == "faster_rcnn_scenes"


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(SystemExit) as error:
        parse("faster_rcnn_coc")
    text = str(error.value)
    assert text.startswith("no recipe is called 'faster_rcnn_coc'. usage: python -m train NAME")
    assert all(f"  {name}: " in text for name in CONFIGS) and "  mask_rcnn_scenes: Mask R-CNN from scratch" in text


def test_a_misspelt_option_gets_a_suggestion(capsys):
    with pytest.raises(SystemExit) as error:
        parse("faster_rcnn_scenes", "--optim.momentun", "0.8")
    printed = capsys.readouterr()
    assert error.value.code == 2
    assert "--optim.momentun" in printed.err and "--optim.momentum" in printed.err


@pytest.mark.parametrize("change, field", [
    ({"optim": Optim(lr=0.5)}, r"optim\.lr = 0\.02, and this one has 0\.5"),
    ({"data": Data(root=pathlib.Path("elsewhere"))}, r"data\.root = data/scenes, and this one has elsewhere"),
    ({"seed": 4}, "seed = 0, and this one has 4"),
])  # fmt: skip
def test_a_run_is_one_recipe(change, field, tmp_path):
    recipe = Recipe(run=tmp_path)
    save_run("x", recipe, WORDS)
    with pytest.raises(ValueError, match=f"holds a run with {field}: name another folder with --run"):
        check_same(tmp_path, dataclasses.replace(recipe, **change), WORDS)
    check_same(tmp_path, dataclasses.replace(recipe, log_every=1, keep=9, steps=5000), WORDS)


def test_a_run_has_one_class_map(tmp_path):
    save_run("x", Recipe(run=tmp_path), WORDS)
    with pytest.raises(ValueError, match=r"was trained on the classes \('a', 'b'\); the data now has \('b', 'a'\)"):
        check_same(tmp_path, Recipe(run=tmp_path), Vocabulary(("b", "a")))
    with pytest.raises(ValueError, match="was trained on other joints than the data has now"):
        check_same(tmp_path, Recipe(run=tmp_path), JOINTS)
    with pytest.raises(ValueError, match="holds a run of FasterRCNN, and this is MaskRCNN: name another folder"):
        check_same(tmp_path, Recipe(run=tmp_path, model=MaskRCNN()), WORDS)


def test_a_folder_without_config_is_no_run(tmp_path):
    with pytest.raises(ValueError, match=r"is not the folder of a run: it has no config\.json"):
        load_run(tmp_path)


def test_a_field_of_another_version_is_named(tmp_path):
    save_run("x", Recipe(run=tmp_path), WORDS)
    content = json.loads((tmp_path / "config.json").read_text())
    content["recipe"]["optim"]["nesterov"] = True
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has a field 'nesterov' that this version does not know"):
        load_run(tmp_path)
    del content["model"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was written by another version of this program"):
        load_run(tmp_path)


OWN = '''
"""A recipe in a file of its own."""
import dataclasses
from configs.base import Recipe
from configs.detectors import FasterRCNN

@dataclasses.dataclass(frozen=True)
class Own(FasterRCNN):
    extent: float = 2.0

RECIPE = Recipe(model=Own(depth=18), steps=7)
'''


def test_a_recipe_can_be_a_file(tmp_path):
    """Nothing of the library is changed: the file is named on the command line, and found again from the run."""
    file, run = tmp_path / "own.py", tmp_path / "run"
    file.write_text(OWN)
    name, recipe = parse(str(file), "--model.extent", "3", "--run", str(run))
    assert (name, recipe.steps, recipe.model.extent, recipe.model.depth) == ("own", 7, 3.0, 18)
    run.mkdir()
    save_run(name, recipe, WORDS)
    assert load_run(run) == (name, recipe, WORDS)
    content = json.loads((run / "config.json").read_text())
    content["model"]["module"] = str(tmp_path / "gone.py")
    (run / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"names the model Own of .*gone\.py, which cannot be loaded"):
        load_run(run)


@pytest.mark.parametrize("text, message", [
    ("x = 1", r"has no RECIPE of type configs\.base\.Recipe: add a line RECIPE = Recipe"),
    (None, "there is no file"),
])  # fmt: skip
def test_a_file_without_recipe_is_one_sentence(text, message, tmp_path, monkeypatch):
    monkeypatch.delenv("SEGJAX_TRACEBACK", raising=False)
    file = tmp_path / "empty.py"
    if text:
        file.write_text(text)
    with pytest.raises(SystemExit, match=message):
        parse(str(file))


def test_an_error_of_the_user_is_one_sentence(monkeypatch):
    monkeypatch.delenv("SEGJAX_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as error, one_sentence():
        raise ValueError("lr is -1.")
    assert error.value.code == "error: lr is -1."
    with pytest.raises(ZeroDivisionError), one_sentence():
        _ = 1 / 0


def test_json_has_no_nan():
    assert finite({"AP": 0.5, "AP_small": float("nan"), "x": float("inf")}) == {"AP": 0.5, "AP_small": None, "x": None}


def test_a_classifiers_last_stage_becomes_the_c4_head(key):
    """ImageNet weights reach `box/layer4`; the c5 form keeps them in the backbone. Nothing is left over but the box."""
    for form, owner in (("c4", "box"), ("c5", "backbone")):
        model = SingleMapRCNN(depth=18, width=8, form=form)
        variables = jax.jit(model.build(3).init)(key, tiny.batch_of(tiny.TWO))
        own = jax.jit(ResNet(18, width=8).init)(jax.random.key(7), jnp.zeros((1, 32, 32, 3)))
        loaded = {collection: {"backbone": tree} for collection, tree in own.items()}
        merged, unused = merge(variables, model.adapted(loaded))
        assert not unused
        kernel = merged["params"][owner]["layer4"]["block1"]["conv2"]["kernel"]
        np.testing.assert_array_equal(kernel, own["params"]["layer4"]["block1"]["conv2"]["kernel"])
        assert "layer4" not in merged["params"]["backbone" if owner == "box" else "box"]
        assert set(merged["frozen"]) == set(variables["frozen"])
