"""Alternating training: four ordinary runs, whose parts end up in one detector; proposals travel through files."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from configs.base import Optim
from segjax.data.proposals import ProposalFile
from tests import tiny
from train.alternating import alternate, finished, fixed, shared_parts
from train.checkpoints import Checkpoints
from train.evaluate import restore_run
from train.propose import propose
from train.recipes import load_run
from train.step import data_mesh

STEPS = 2
# optax's Adam takes a float to an integer's power, which the strict promotion of the tests forbids.
SGD = Optim(lr=1e-2, schedule="constant", warmup_steps=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, scores) of a run of four times two steps."""
    root = tmp_path_factory.mktemp("alternating")
    tiny.write_coco(root / "data", count=4)
    model = dataclasses.replace(
        tiny.MODEL, stages=(2, 3), rpn=dataclasses.replace(tiny.MODEL.rpn, anchor_sizes=((16.0,), (24.0,), (48.0,)))
    )
    data = dataclasses.replace(tiny.recipe(root / "data", root).data, buckets=((64, 96),))
    recipe = tiny.recipe(root / "data", root / "run", steps=STEPS, alternating=True, model=model, data=data, optim=SGD)
    return recipe, alternate("tiny", recipe)


def params_of(folder):
    _, recipe, vocabulary = load_run(folder)
    return jax.device_get(restore_run(recipe, vocabulary, data_mesh(1))[1].params)


def equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def test_the_detector_is_made_of_the_last_two_steps(trained):
    recipe, scores = trained
    assert 0 <= scores["AP"] <= 1 and (recipe.run / "report.html").exists()
    whole = params_of(recipe.run)
    steps = [params_of(recipe.run / name) for name in ("step1_rpn", "step2_fast_rcnn", "step3_rpn", "step4_fast_rcnn")]
    assert [set(step) for step in steps] == 2 * [{"backbone", "neck", "rpn"}, {"backbone", "neck", "box"}]
    for part in ("backbone", "neck"):
        assert not equal(steps[0][part], steps[1][part])  # nothing is shared at first
        assert all(equal(found[part], whole[part]) for found in steps[1:])  # then it stays fixed
    assert equal(steps[2]["rpn"], whole["rpn"]) and not equal(steps[0]["rpn"], whole["rpn"])
    assert equal(steps[3]["box"], whole["box"]) and not equal(steps[1]["box"], whole["box"])


def test_what_is_finished_is_not_done_again(trained, capsys):
    recipe, scores = trained
    before = {path: path.stat().st_mtime_ns for path in recipe.run.glob("step*/**/*") if path.is_file()}
    assert alternate("tiny", recipe)["AP"] == scores["AP"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert finished(dataclasses.replace(recipe, run=recipe.run / "step1_rpn"))


def test_steps_are_begun_for_a_number_of_steps(trained):
    """A step that went on would leave behind proposals, and later steps, of what it was."""
    recipe, _ = trained
    with pytest.raises(ValueError, match=f"step1_rpn was begun for {STEPS} steps, and this is for {STEPS + 1}"):
        alternate("tiny", dataclasses.replace(recipe, steps=STEPS + 1))


def test_proposals_are_written_for_every_image(trained, tmp_path):
    """Of the whole detector too; as many as are asked for, best first, inside the image."""
    recipe, _ = trained
    source = dataclasses.replace(recipe.data).source("val")
    count = propose(recipe.run, "val", out=tmp_path / "deep" / "val.npz", count=7)
    file = ProposalFile(tmp_path / "deep" / "val.npz", source)
    assert len(file) == len(source) and count == sum(len(file(i)[0]) for i in range(len(source))) > len(source)
    for i in range(len(source)):
        boxes, scores = file(i)
        info = source.info(i)
        assert len(boxes) <= 7 and (np.diff(scores) <= 0).all()
        assert (boxes >= 0).all() and (boxes <= [info.width, info.height] * 2).all()
    with pytest.raises(ValueError, match="is of a Fast R-CNN, which makes no proposals"):
        propose(recipe.run / "step4_fast_rcnn", "val", out=tmp_path / "x.npz", count=7)


def test_images_without_proposals_are_named(trained, tmp_path, capsys):
    recipe, _ = trained
    source = recipe.data.source("val")
    image = pathlib.Path(source.info(0).path)
    whole = image.read_bytes()
    try:
        image.write_bytes(whole[:60])
        propose(recipe.run, "val", out=tmp_path / "val.npz", count=7)
    finally:
        image.write_bytes(whole)
    assert len(ProposalFile(tmp_path / "val.npz", source)(0)[0]) == 0
    said = capsys.readouterr().err
    assert "1 x undecodable image (left out)" in said and str(image) in said


def test_batch_norm_is_refused(tmp_path):
    recipe = tiny.recipe(tmp_path, tmp_path / "run", model=dataclasses.replace(tiny.MODEL, norm="batch"))
    with pytest.raises(ValueError, match="batch norm goes on changing: choose frozen_batch or group"):
        alternate("tiny", recipe)


def test_only_parts_with_parameters_are_fixed(tmp_path):
    recipe = tiny.recipe(tmp_path, tmp_path / "run")
    assert shared_parts(recipe) == ("backbone", "neck")
    one = fixed(recipe, ("backbone",), tmp_path)
    assert one.optim.freeze == ("backbone",) and one.start.runs == (tmp_path,)


def test_a_step_without_a_folder_is_not_finished(tmp_path):
    assert not finished(tiny.recipe(tmp_path, tmp_path / "none"))
    assert Checkpoints(tmp_path / "none").latest is None
