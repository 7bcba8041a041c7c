"""R-CNN in stages: each can be stopped and continued, and what comes out is an ordinary detector."""

import contextlib
import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from benchmarks import ladder
from configs.base import Optim
from configs.rcnn import RCNN, SPPNet
from segjax.data.proposals import ProposalFile, write_proposals
from segjax.fitting.linear_svm import SVMSettings
from segjax.fitting.ridge import RidgeSettings
from segjax.models.heads.box import BoxSettings
from segjax.models.heads.roi import PoolSettings, SamplingSettings
from segjax.types import Proposals
from tests import tiny
from tests.evaluation.listed import ListedSource, objects
from train import region_stages
from train.__main__ import trainer
from train.evaluate import restore_run
from train.loop import train
from train.recipes import load_run
from train.region_cache import make_regions
from train.region_stages import train_region_classifier
from train.run import read_arrays
from train.stages import Stages
from train.step import data_mesh

# optax's Adam takes a float to an integer's power, which the strict promotion of the tests forbids.
SGD = Optim(lr=1e-2, schedule="constant", warmup_steps=0)
MODEL = RCNN(
    width=4 / 64,
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
    data = dataclasses.replace(
        tiny.recipe(root / "data", root).data, buckets=((64, 96), (64, 64)), proposal_count=COUNT
    )
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
    assert list(record) == ["finetune", "made_of", "features", "disk_mib", "svm", "ridge", "detector"]
    assert set(record.pop("made_of")) == {"features"}
    size = sum((recipe.run / name).stat().st_size for name in ("regions.npz", "features/seen.npy", *FILES[2:]))
    assert record.pop("disk_mib") == pytest.approx(size / 2**20, abs=0.1)
    assert all(set(stage) == {"seconds", "processor_seconds"} and stage["seconds"] > 0 for stage in record.values())


def regions_of(recipe):
    source = recipe.data.source("train")
    return source, make_regions(source, ProposalFile(recipe.data.proposals[0], source), COUNT)


def near_objects(regions):
    """The rows that ridge regression learns from."""
    return np.flatnonzero((regions.overlap > MODEL.ridge.overlap) & ~regions.is_object)


def test_regions_are_the_objects_and_then_the_proposals(trained):
    recipe, _ = trained
    source, regions = regions_of(recipe)
    truths = [source.annotations(i) for i in range(len(source))]
    assert len(regions.boxes) == sum(len(found.boxes) + COUNT for found in truths)
    assert regions.is_object.sum() == sum(len(found.boxes) for found in truths)
    np.testing.assert_array_equal(regions.overlap[regions.is_object], 1)
    np.testing.assert_allclose(regions.classes.max(axis=1), regions.overlap)  # no crowds here


def test_two_objects_with_one_box_are_each_of_their_class():
    """The overlap does not tell them apart; a proposal goes to the first."""
    box = [4.0, 4, 30, 30]
    source = ListedSource([objects([box, box], [0, 2])])
    regions = make_regions(source, lambda index: (np.float32([box]), np.ones(1)), 1)
    assert regions.label.tolist() == [0, 2, 0] and regions.is_object.tolist() == [True, True, False]


def test_features_are_the_networks(trained):
    """Of every image by itself, at its own size, the rows are what the network says of its regions."""
    recipe, _ = trained
    source, regions = regions_of(recipe)
    rows = near_objects(regions)
    features = region_stages.read_features(recipe.run / "features", rows)
    assert features.seen.all() and len(features.hidden) == len(regions.boxes)
    assert 0 < len(rows) == len(features.pooled)
    tuned = region_stages.finetuning(recipe)
    variables = restore_run(tuned, load_run(tuned.run).vocabulary, data_mesh(1))[1].variables
    predict = jax.jit(dataclasses.replace(MODEL, says="features").build(len(source.classes)).predict)
    most = max(np.diff(regions.starts))
    for i in range(len(source)):
        own = slice(*regions.starts[i : i + 2])
        count, image = own.stop - own.start, source.image(i)
        boxes = np.zeros((1, most, 4), np.float32)
        boxes[0, :count] = regions.boxes[own]
        proposals = Proposals(boxes, np.ones((1, most), np.float32), np.arange(most)[None] < count)
        found = jax.device_get(predict(variables, image[None], np.int32([image.shape[:2]]), proposals)).extra
        np.testing.assert_allclose(features.hidden[own], found["hidden"][0, :count], atol=1e-5)
        mine = rows[(rows >= own.start) & (rows < own.stop)]
        pooled = found["pooled"][0, mine - own.start]
        np.testing.assert_allclose(features.pooled[np.isin(rows, mine)], pooled, atol=1e-5)
    assert len(np.unique(features.hidden.round(4), axis=0)) > 0.5 * len(features.hidden)


def test_an_image_that_cannot_be_read_is_told_and_not_learnt_of(trained, tmp_path, capsys):
    recipe, _ = trained
    shutil.copytree(recipe.data.root, tmp_path / "data")
    source = recipe.data.source("train")
    (tmp_path / "data/train" / pathlib.Path(source.info(1).path).name).write_bytes(b"no image")
    broken = dataclasses.replace(
        recipe, run=tmp_path / "run", data=dataclasses.replace(recipe.data, root=tmp_path / "data")
    )
    tuned = region_stages.finetuning(recipe)
    assert region_stages.solved(broken, tuned, Stages(broken.run), lambda: False)
    assert np.flatnonzero(~np.load(broken.run / "features/seen.npy")).tolist() == [1]
    assert "1 images could not be read, and nothing is learnt of them" in capsys.readouterr().err
    whole, one = (dict(np.load(run / "svm.npz")) for run in (recipe.run, broken.run))
    assert any((whole[name] != one[name]).any() for name in whole)


@pytest.mark.parametrize("asked", [1, 4, 8])
def test_a_stopped_run_goes_on_to_the_same_end(trained, asked, tmp_path, monkeypatch):
    """Stopped within the features, which are four batches, in the first fits of three classes, and within a pass."""
    recipe, _ = trained
    again = dataclasses.replace(recipe, run=tmp_path / "run")
    shutil.copytree(recipe.run / "finetune", again.run / "finetune")
    monkeypatch.setattr(region_stages, "train", lambda name, made: {"AP": 0.5, "of": made})
    with monkeypatch.context() as patch:
        stop_after(patch, asked)
        assert train_region_classifier("tiny", again) is None
    assert not (again.run / "svm.npz").exists() and (again.run / "features").exists() == (asked >= 4)
    assert (again.run / "svm.partial.npz").exists() == (asked >= 7)
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
    with pytest.raises(ValueError, match="finetune was begun for 3 steps, and this is for 5; what later stages made"):
        train_region_classifier("tiny", dataclasses.replace(recipe, steps=5))
    with pytest.raises(ValueError, match="is not trained to step|was begun for 3 steps"):
        ladder.train("tiny", dataclasses.replace(recipe, steps=5), allowed=False)
    ladder.train("tiny", recipe, allowed=False)


def test_other_proposals_are_not_those_of_the_features(trained, tmp_path):
    """Nothing is written over, and what was made stays as it was."""
    recipe, _ = trained
    before = (recipe.run / "regions.npz").read_bytes()
    source, regions = regions_of(recipe)
    ids = [source.info(i).image_id for i in range(len(source))]
    boxes = np.split(regions.boxes[~regions.is_object] + 0.5, len(source))
    write_proposals(tmp_path / "train.npz", ids, boxes)
    files = (str(tmp_path / "train.npz"), *recipe.data.proposals[1:])
    other = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, proposals=files))
    tuned = region_stages.finetuning(recipe)
    with pytest.raises(ValueError, match="has features of other proposals or objects than the data has now"):
        region_stages.solved(other, tuned, Stages(recipe.run), lambda: False)
    assert (recipe.run / "regions.npz").read_bytes() == before


def test_a_detector_does_not_outlive_what_it_was_made_of(trained, tmp_path):
    recipe, _ = trained
    again = dataclasses.replace(recipe, run=tmp_path / "run")
    shutil.copytree(recipe.run, again.run)
    (again.run / "svm.npz").unlink()
    with pytest.raises(ValueError, match="checkpoints holds a detector of files that are gone"):
        region_stages.solved(again, region_stages.finetuning(recipe), Stages(again.run), lambda: False)


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
    source, regions = regions_of(recipe)
    features = region_stages.read_features(recipe.run / "features", near_objects(regions))
    other = regions._replace(label=np.where(regions.label == 1, 0, regions.label))
    svms = region_stages.mined(recipe.run.parent / "none.npz", MODEL, source.classes, other, features, lambda: False)
    kernel, bias = region_stages.regressed(MODEL, source.classes, other, features, lambda: False)
    said = capsys.readouterr().err
    assert "no object of the class bar in the training images: its SVM never says so" in said
    assert "no proposal overlaps a bar by more than 0.6" in said
    assert not svms.kernel[:, 1].any() and svms.bias[1] == -1e6 and svms.kernel[:, 0].any()
    assert not kernel[:, 4:8].any() and not bias[4:8].any() and kernel[:, :4].any()
    assert region_stages.regressed(MODEL, source.classes, other, features, lambda: True) is None


def test_pretraining_gives_the_backbone_of_sppnet(trained, tmp_path, monkeypatch):
    """The convolutions are those of an R-CNN, and stay so; stages in a table of what each starts from."""
    recipe, _ = trained
    model = SPPNet.of(
        MODEL,
        pool=PoolSettings(kind="pyramid", levels=(1, 2)),
        pretrain_steps=1,
        pretrain_pool=MODEL.pool,
        pretrain_sampling=SamplingSettings(samples=4),
    )
    optim = dataclasses.replace(SGD, freeze=("backbone",))
    spp = dataclasses.replace(recipe, model=model, optim=optim, steps=2, run=tmp_path / "spp")
    assert 0 <= train_region_classifier("spp", spp)["AP"] <= 1
    folders = [load_run(folder) for folder in (spp.run / "pretrain", spp.run / "finetune", spp.run)]
    params = [jax.device_get(restore_run(run.recipe, run.vocabulary, data_mesh(1))[1].params) for run in folders]
    first = params[0]["box"]["backbone"]
    assert folders[0].recipe.model.sampling.samples == 4 and folders[1].recipe.model.sampling.samples == 6
    assert all(jax.tree.all(jax.tree.map(np.array_equal, first, found["backbone"])) for found in params[1:])
    assert {"svm", "ridge"} <= set(params[2]["box"]) and "pretrain" in json.loads((spp.run / "stages.json").read_text())


def test_a_file_to_start_from_that_is_none_is_one_sentence(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("text.npz", "absent.npz"):
        with pytest.raises(ValueError, match=f"start.arrays names .*{name}, which is no readable NumPy archive"):
            read_arrays(tmp_path / name)
