"""R-CNN in stages: each can be stopped and continued, and what comes out is an ordinary detector."""

import contextlib
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from configs.base import Optim
from configs.rcnn import RCNN, SPPNet
from segjax.data.proposals import ProposalFile, write_proposals
from segjax.fitting.linear_svm import SVMSettings
from segjax.fitting.ridge import RidgeSettings
from segjax.models.heads.box import BoxSettings
from segjax.models.heads.roi import PoolSettings, SamplingSettings
from segjax.ops import boxes
from tests import tiny
from train import region_stages
from train.__main__ import trainer
from train.evaluate import restore_run
from train.loop import train
from train.recipes import load_run
from train.region_cache import iou, make_regions
from train.region_stages import train_region_classifier
from train.run import read_arrays
from train.step import data_mesh

# Its fixtures are trained: all in one process.
pytestmark = pytest.mark.xdist_group("region_stages")

# optax's Adam takes a float to an integer's power, which the strict promotion of the tests forbids.
SGD = Optim(lr=1e-2, schedule="constant", warmup_steps=0)
MODEL = RCNN(
    width=4,
    stage=2,
    norm="group",
    hidden=(8,),
    dropout=0.0,
    pool=PoolSettings(kind="warp", size=16, context=1, chunk=6),
    sampling=SamplingSettings(samples=6, positive_fraction=0.5),
    box=BoxSettings(nms_threshold=0.3, detections=6, weights=(1.0, 1.0, 1.0, 1.0)),
    svm=SVMSettings(c=1.0, first=4, retrain=3, few=0, block=16),
    ridge=RidgeSettings(regularization=10.0),
    cache="float32",
)
COUNT = 10
"""Proposals of an image."""
FILES = ("svm.npz", "ridge.npz", "features/hidden.npy", "features/pooled.npy")


def propose(recipe, part, root):
    """Boxes around the objects, and others."""
    source, rng, found = recipe.data.source(part), np.random.default_rng(5), []
    for i in range(len(source)):
        limits, objects = [source.info(i).width, source.info(i).height] * 2, source.annotations(i).boxes
        near = np.repeat(objects, 3, axis=0) + rng.uniform(-3, 3, (3 * len(objects), 4))
        far = np.sort(rng.uniform(0, 60, (COUNT, 2, 2)), axis=1).reshape(-1, 4) + [0, 0, 4, 4]
        found.append(np.clip(np.concatenate([near, far])[:COUNT], 0, limits))
    write_proposals(root / f"{part}.npz", [source.info(i).image_id for i in range(len(source))], found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(recipe, scores) of a run in one go."""
    root = tmp_path_factory.mktemp("stages")
    tiny.write_coco(root / "data", count=6)
    data = dataclasses.replace(tiny.recipe(root / "data", root).data, buckets=((64, 96),), proposal_count=COUNT)
    recipe = tiny.recipe(root / "data", root / "run", steps=3, model=MODEL, data=data, optim=SGD)
    for part in ("train", "val"):
        propose(recipe, part, root)
    files = (str(root / "train.npz"), str(root / "val.npz"), "")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(data, proposals=files))
    assert trainer(recipe) is train_region_classifier
    return recipe, train_region_classifier("tiny", recipe)


def arrays(run):
    found = {name: np.load(run / name) for name in FILES}
    return {name: dict(x) if name.endswith("npz") else x for name, x in found.items()}


def stop_after(monkeypatch, asked):
    """Asks the stages behind fine-tuning to stop when they have asked this often."""

    class Stop:
        times = 0

        @property
        def asked(self):
            self.times += 1
            return self.times > asked

    monkeypatch.setattr(region_stages, "stop_signals", lambda: contextlib.nullcontext(Stop()))


def test_the_detector_is_an_ordinary_run(trained):
    recipe, scores = trained
    assert 0 <= scores["AP"] <= 1 and (recipe.run / "report.html").exists()
    _, saved, vocabulary = load_run(recipe.run)
    params = jax.device_get(restore_run(saved, vocabulary, data_mesh(1))[1].params)
    tuned = load_run(recipe.run / "finetune")
    before = jax.device_get(restore_run(tuned.recipe, tuned.vocabulary, data_mesh(1))[1].params)
    solved = arrays(recipe.run)
    for stage in ("svm", "ridge"):
        for name, value in params["box"].pop(stage).items():
            np.testing.assert_array_equal(value, solved[f"{stage}.npz"][f"params/box/{stage}/{name}"])
            assert value.any()
    assert jax.tree.all(jax.tree.map(np.array_equal, params, before))


def test_times_and_disk_are_written(trained):
    recipe, _ = trained
    record = json.loads((recipe.run / "stages.json").read_text())
    assert list(record) == ["finetune", "features", "disk_mib", "svm", "ridge", "detector"]
    size = sum((recipe.run / name).stat().st_size for name in ("regions.npz", "features/seen.npy", *FILES[2:]))
    assert record.pop("disk_mib") == pytest.approx(size / 2**20, abs=0.1)
    assert all(set(stage) == {"seconds", "processor_seconds"} and stage["seconds"] > 0 for stage in record.values())


def test_features_are_the_networks(trained):
    """A row for every object and every proposal, in order; pooled ones of proposals near an object alone."""
    recipe, _ = trained
    source = recipe.data.source("train")
    proposals = ProposalFile(recipe.data.proposals[0], source)
    regions = make_regions(source, proposals, COUNT, recipe.run.parent / "again.npz")
    hidden = np.load(recipe.run / "features/hidden.npy")
    objects = [source.annotations(i) for i in range(len(source))]
    assert len(hidden) == sum(len(found.boxes) + COUNT for found in objects) == len(regions.boxes)
    assert regions.is_object.sum() == sum(len(found.boxes) for found in objects)
    np.testing.assert_array_equal(regions.overlap[regions.is_object], 1)
    near = ~regions.is_object & (regions.overlap > MODEL.ridge.overlap)
    assert 0 < near.sum() == len(np.load(recipe.run / "features/pooled.npy"))
    assert hidden.any(axis=1).mean() > 0.5 and len(np.unique(hidden, axis=0)) > 0.5 * len(hidden)
    best = regions.classes.max(axis=1)
    np.testing.assert_allclose(best, regions.overlap)  # no crowds here


@pytest.mark.parametrize("asked", [1, 3, 4])
def test_a_stopped_run_goes_on_to_the_same_end(trained, asked, tmp_path, monkeypatch):
    """Stopped within the features, after them, and between passes of the mining."""
    recipe, _ = trained
    again = dataclasses.replace(recipe, run=tmp_path / "run")
    shutil.copytree(recipe.run / "finetune", again.run / "finetune")
    monkeypatch.setattr(region_stages, "train", lambda name, made: {"AP": 0.5, "of": made})
    with monkeypatch.context() as patch:
        stop_after(patch, asked)
        assert train_region_classifier("tiny", again) is None
    assert not (again.run / "svm.npz").exists() and (again.run / "features").exists() == (asked > 1)
    assert (again.run / "svm.partial.npz").exists() == (asked > 2)
    before = {path: path.stat().st_mtime_ns for path in again.run.glob("finetune/**/*") if path.is_file()}
    scores = train_region_classifier("tiny", again)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    one, other = arrays(recipe.run), arrays(again.run)
    assert jax.tree.all(jax.tree.map(np.array_equal, one, other))
    assert scores["of"].steps == 0 and scores["of"].start.runs == (again.run / "finetune",)
    # With the ridge alone to do, nothing else is touched.
    (again.run / "ridge.npz").unlink()
    kept = (again.run / "svm.npz").stat().st_mtime_ns
    train_region_classifier("tiny", again)
    assert (again.run / "svm.npz").stat().st_mtime_ns == kept
    assert jax.tree.all(jax.tree.map(np.array_equal, arrays(again.run), one))


def test_another_recipe_does_not_go_on_from_its_stages(trained):
    recipe, _ = trained
    model = dataclasses.replace(MODEL, svm=dataclasses.replace(MODEL.svm, c=3.0))
    with pytest.raises(ValueError, match=r"holds a run with model\.svm\.c = 1\.0, and this one has 3\.0"):
        train_region_classifier("tiny", dataclasses.replace(recipe, model=model))


def test_no_proposals_is_one_sentence(trained):
    recipe, _ = trained
    bare = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, proposals=("", "", "")))
    with pytest.raises(ValueError, match="tiny classifies proposals, and data.proposals names none: write them with"):
        train_region_classifier("tiny", bare)
    tuning = dataclasses.replace(recipe, model=dataclasses.replace(MODEL, says="softmax"))
    assert trainer(tuning) is train


def test_a_class_without_examples_is_named_and_never_found(trained, capsys):
    """Its SVM and its regression are there, and say nothing."""
    recipe, _ = trained
    source = recipe.data.source("train")
    regions = make_regions(source, ProposalFile(recipe.data.proposals[0], source), COUNT, recipe.run.parent / "x.npz")
    rows = np.flatnonzero(regions.overlap > MODEL.ridge.overlap)
    features = region_stages.read_features(recipe.run / "features", rows[~regions.is_object[rows]])
    other = regions._replace(label=np.where(regions.label == 1, 0, regions.label))
    svms = region_stages.mined(recipe.run.parent / "none.npz", MODEL, source.classes, other, features, lambda: False)
    kernel, bias = region_stages.regressed(MODEL, source.classes, other, features)
    said = capsys.readouterr().err
    assert "no object of the class bar in the training images: its SVM never says so" in said
    assert "no proposal overlaps a bar by more than 0.6" in said
    assert not svms.kernel[:, 1].any() and svms.bias[1] == -1e6 and svms.kernel[:, 0].any()
    assert not kernel[:, 4:8].any() and not bias[4:8].any() and kernel[:, :4].any()


def test_pretraining_gives_the_backbone_of_sppnet(trained, tmp_path, monkeypatch):
    """The convolutions are those of an R-CNN, and stay so; stages in a table of what each starts from."""
    recipe, _ = trained
    model = SPPNet.of(
        MODEL, pool=PoolSettings(kind="pyramid", levels=(1, 2)), pretrain_steps=1, pretrain_pool=MODEL.pool
    )
    optim = dataclasses.replace(SGD, freeze=("backbone",))
    spp = dataclasses.replace(recipe, model=model, optim=optim, steps=2, run=tmp_path / "spp")
    assert 0 <= train_region_classifier("spp", spp)["AP"] <= 1
    folders = [load_run(folder) for folder in (spp.run / "pretrain", spp.run / "finetune", spp.run)]
    params = [jax.device_get(restore_run(run.recipe, run.vocabulary, data_mesh(1))[1].params) for run in folders]
    first = params[0]["box"]["backbone"]
    assert all(jax.tree.all(jax.tree.map(np.array_equal, first, found["backbone"])) for found in params[1:])
    assert {"svm", "ridge"} <= set(params[2]["box"]) and "pretrain" in json.loads((spp.run / "stages.json").read_text())


def test_a_file_to_start_from_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("text.npz", "absent.npz"):
        with pytest.raises(ValueError, match=f"start.arrays names .*{name}, which is no readable NumPy archive"):
            read_arrays(tmp_path / name)


def test_iou_on_the_host_is_that_of_boxes(rng):
    corners = np.sort(rng.uniform(0, 50, (7, 2, 2)), axis=1).reshape(7, 4).astype(np.float32)
    np.testing.assert_allclose(
        iou(corners[:4], corners), boxes.iou(*map(jax.numpy.asarray, (corners[:4], corners))), atol=1e-6
    )
    assert iou(corners, np.zeros((0, 4))).shape == (7, 0)
