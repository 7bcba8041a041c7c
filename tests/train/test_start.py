"""What a run starts from: other models' runs and classifiers, each part where the new model has it."""

import dataclasses
import pathlib
from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
from flax import traverse_util

from configs.base import Recipe, Start
from configs.detectors import VGG16RCNN, SingleMapRCNN
from configs.localizers import Localizer
from configs.pose import DeepPose
from configs.rcnn import RCNN, SPPNet
from configs.segmenters import FCNVGG16
from configs.ssd import SSD
from segjax.data.source import Vocabulary
from segjax.models.heads.roi import PoolSettings
from segjax.pretrained import merge
from tests import tiny
from train import run as module
from train.recipes import SavedRun

HIDDEN = (12, 8)
VGG16 = {"width": 4, "norm": "group", "hidden": HIDDEN}
MODELS = {
    "rcnn": RCNN(pool=PoolSettings(kind="warp", size=32), stage=4, **{**VGG16, "width": 4 / 64}),
    "rcnn on alexnet": RCNN(network="alexnet", width=0.125, hidden=HIDDEN),
    "sppnet": SPPNet(pool=PoolSettings(kind="pyramid", levels=(7,)), stage=4, **{**VGG16, "width": 4 / 64}),
    "c4": SingleMapRCNN(depth=18, width=8),
    "c5": SingleMapRCNN(depth=18, width=8, form="c5", pool=PoolSettings(size=7)),
    "localizer": Localizer(width=0.125, hidden=HIDDEN),
    "pose": DeepPose(width=0.125, hidden=HIDDEN),
    "fcn": FCNVGG16(**VGG16),
    "ssd": SSD(width=8, norm="group"),
}
VGG16_RUN = VGG16RCNN(stage=4, **VGG16)
WHOLE_RUN = dataclasses.replace(VGG16_RUN, stage=5)


def variables_of(model):
    """Zeros: it is their paths and shapes that count."""
    side = 300 if isinstance(model, SSD) else tiny.SIDE
    batch = tiny.batch_of([([], [])], side=side).replace(proposals=tiny.no_proposals(1))
    shapes = jax.eval_shape(model.build(3, tiny.JOINTS).init, jax.random.key(0), batch)
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def flat(variables):
    return traverse_util.flatten_dict(variables, sep="/")


def started(model, other, monkeypatch):
    """What `load_start` gives where `other` is the model of the run to start from."""
    run, variables = pathlib.Path("runs/other"), variables_of(other)
    saved = SavedRun("other", Recipe(model=other), Vocabulary(tiny.CLASSES))
    restored = None, SimpleNamespace(variables=variables)
    monkeypatch.setattr(module, "load_run", lambda path: {run: saved}[path])
    monkeypatch.setattr(module.evaluation, "restore_run", lambda *_: restored)
    return module.load_start(Recipe(model=model, start=Start(runs=(run,))), mesh=None)


@pytest.mark.parametrize(("name", "other", "moved"), [
    ("rcnn", VGG16_RUN, {"backbone": "box/backbone"}),
    ("sppnet", VGG16_RUN, {"backbone": "backbone", "box/fc6": "box/fc6", "box/fc7": "box/fc7"}),
    ("c4", MODELS["c5"], {"backbone/layer3": "backbone/layer3", "backbone/layer4": "box/layer4"}),
    ("fcn", WHOLE_RUN, {"backbone": "backbone", "box/fc6/kernel": "classifier/fc6/kernel"}),
    ("ssd", VGG16RCNN(width=8, norm="group", hidden=(16, 512)), {"backbone/conv5_3": "backbone/conv5_3"}),
    ("pose", MODELS["localizer"], {"backbone": "backbone"}),
])  # fmt: skip
def test_parts_of_another_models_run_have_a_place(name, other, moved, monkeypatch):
    """The path of each that is said to be used, by the start of the path it has in that run."""
    loaded = started(MODELS[name], other, monkeypatch)
    _, unused = merge(variables_of(MODELS[name]), loaded)
    for start, place in moved.items():
        here = [path for path in flat(variables_of(other)) if f"/{start}" in path]
        there = {path.replace(f"/{start}", f"/{place}", 1) for path in here}
        assert here and there <= flat(loaded).keys() - unused.keys()


@pytest.mark.parametrize("name", MODELS)
def test_a_run_of_the_same_model_stays_as_it_is(name, monkeypatch):
    own = variables_of(MODELS[name])
    loaded = started(MODELS[name], MODELS[name], monkeypatch)
    chex.assert_trees_all_equal(flat(loaded), flat(own))
    assert not merge(own, loaded)[1]


@pytest.mark.parametrize("name", MODELS)
def test_what_has_its_place_is_not_moved_again(name, rng):
    def layer(*shape):
        return {"kernel": rng.normal(size=shape), "bias": rng.normal(size=shape[-1])}

    hidden = {"fc6": layer(98, 12), "fc7": layer(12, 8)}
    weights = {
        "params": {
            "backbone": {"conv1_1": layer(3, 3, 3, 4), "layer4": {"project": layer(1, 1, 2, 3)}},
            "box": hidden,
            "classifier": {**hidden, "logits": layer(8, 5)},
        },
        "frozen": {"backbone": {"layer4": {"norm": {"scale": np.ones(3)}}}},
    }
    once = MODELS[name].adapted(weights)
    chex.assert_trees_all_equal(flat(MODELS[name].adapted(once)), flat(once))


def test_hidden_layers_of_alexnet_are_those_of_a_pose_and_its_logits_are_left():
    model = MODELS["pose"]
    params = variables_of(model)["params"]
    hidden = {name: jax.tree.map(np.ones_like, params["head"][name]) for name in ("fc6", "fc7")}
    classifier = {**hidden, "logits": {"kernel": np.ones((HIDDEN[-1], 1000)), "bias": np.ones(1000)}}
    loaded = model.adapted({"params": {"backbone": params["backbone"], "classifier": classifier}})
    merged, unused = merge({"params": params}, loaded)
    assert not unused and set(loaded["params"]) == {"backbone", "head"}
    chex.assert_trees_all_equal(merged["params"]["head"], {**params["head"], **hidden})


@pytest.mark.parametrize("name", ["fcn", "ssd"])
def test_a_box_head_of_other_cells_is_named_as_unused(name, monkeypatch):
    """Of 5x5 cells, which no window of 7x7 is."""
    other = dataclasses.replace(VGG16_RUN, pool=PoolSettings(kind="pool", size=5), width=3, norm="layer")
    loaded = started(MODELS[name], other, monkeypatch)
    _, unused = merge(variables_of(MODELS[name]), loaded)
    assert any(path.endswith("/fc6/kernel") for path in unused)


@pytest.mark.parametrize("name", ["buckets", "evaluation_buckets"])
def test_buckets_that_a_model_cannot_take_are_named(name, tmp_path):
    recipe = tiny.recipe(tiny.write_coco(tmp_path / "data", count=2), tmp_path / "run")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **{name: ((64, 64), (64, 90))}))
    source, val = module.read_data(recipe)
    with pytest.raises(ValueError, match=rf"data\.{name} has one of 64x90 pixels, .* multiples of 32: round up"):
        module.start(recipe, source, val)
    # One that takes images of any size.
    recipe.data.training(source, batch_size=2, seed=0, multiple=MODELS["localizer"].multiple).close()
