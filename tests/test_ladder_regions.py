"""The ladder of regions: what it says of runs in stages, of proposals from files, its table and its plot."""

import dataclasses
import json

import numpy as np
import pytest
from matplotlib.image import imread

from benchmarks import ladder, ladder_regions, ladder_training
from configs import CONFIGS
from segjax.data.proposals import ProposalFile, read_proposals, write_proposals
from tests import tiny
from train.selective_search import Search, Searcher, search_source

ROWS = [
    {
        "name": "rcnn",
        "scores": {"AP50": 0.5},
        "regions": 99.6,
        "inference": {"images": 1, "seconds": [0.3, 0.2, 0.4]},
        "proposals": {"images": 2, "seconds": [0.2, 0.2]},
        "stages": {"fine-tuning": {"seconds": 120.0}, "SVMs": {"seconds": 30.0}},
        "disk_mib": 12.4,
    },
    {
        "name": "faster_rcnn",
        "scores": {"AP50": 0.75},
        "regions": 64,
        "inference": {"images": 1, "seconds": [0.02]},
        "trained": {"seconds": 90.0},
    },
    {"name": "sppnet", "failed": "no proposals"},
]


def test_table_keeps_the_order_of_the_story_and_adds_up_times():
    text = ladder_regions.table(ROWS, {"AP50": "AP50"})
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert [line[0] for line in lines[2:]] == ["rcnn", "faster_rcnn", "sppnet"]
    rcnn, faster, sppnet = (dict(zip(lines[0], line)) for line in lines[2:])
    assert rcnn["AP50"] == "0.500" and rcnn["regions an image"] == "100" and rcnn["disk, MiB"] == "12"
    assert rcnn["network"].startswith("300 ms") and rcnn["proposals"].startswith("100 ms")
    assert rcnn["together"] == "400 ms" and rcnn["training, by stage"] == "fine-tuning 2.0 + SVMs 0.5 min"
    assert faster["proposals"] == "none" and faster["together"] == "20.0 ms"
    assert faster["training, by stage"] == "1.5 min" and faster["disk, MiB"] == "–"
    assert sppnet["network"] == sppnet["together"] == "–" and text.endswith("- sppnet failed: no proposals")


def test_plot_shows_what_was_timed(tmp_path):
    options = {"title": "Regions", "heading": "AP50", "name": "AP50"}
    assert not ladder_regions.plot(ROWS[2:], tmp_path / "none.png", **options)
    assert not (tmp_path / "none.png").exists()
    assert ladder_regions.plot(ROWS, tmp_path / "two.png", **options)
    assert ladder_regions.plot(ROWS[:1], tmp_path / "one.png", **options)
    two, one = imread(tmp_path / "two.png"), imread(tmp_path / "one.png")
    assert two.std() > 0 and two.shape[0] > one.shape[0]


@pytest.fixture
def recipe(tmp_path):
    """A recipe whose proposals come from a file, with an image that has none and one that has more than it may."""
    tiny.write_coco(tmp_path / "data")
    recipe = tiny.recipe(tmp_path / "data", tmp_path / "run")
    source = recipe.data.source("val")
    counts = [0, 9] + [2] * (len(source) - 2)
    ids = [source.info(i).image_id for i in range(len(source))]
    write_proposals(tmp_path / "data/val.npz", ids, [np.tile(np.float32([1, 1, 9, 9]), (n, 1)) for n in counts])
    data = dataclasses.replace(recipe.data, proposals=("", "val.npz", ""), proposal_count=5)
    (tmp_path / "run").mkdir()
    return dataclasses.replace(recipe, data=data), (5 + 2 * (len(source) - 2)) / len(source)


def test_describes_stages_disk_and_regions(recipe):
    recipe, mean = recipe
    assert ladder_regions.describe(recipe) == {
        "stages": {},
        "disk_mib": None,
        "regions": pytest.approx(mean),
        "reads_proposals": True,
    }
    (recipe.run / "stages.json").write_text(json.dumps({"disk_mib": 7.5}))
    assert ladder_regions.describe(recipe)["disk_mib"] == 7.5
    (recipe.run / "results_val.json").write_text(json.dumps({"AP": 0.1, "windows_per_image": 321.0}))
    assert ladder_regions.regions(recipe) == 321.0
    without = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, proposals=("", "", "")))
    (recipe.run / "results_val.json").unlink()
    assert ladder_regions.regions(without) == without.model.rpn.proposals[1]


def test_the_search_that_made_the_file_is_the_one_that_is_timed(recipe, monkeypatch):
    recipe, _ = recipe
    source, file = recipe.data.source("val"), recipe.data.root / "val.npz"
    file.unlink()
    search = Search(
        mode="quality", colour_spaces=("hue",), similarities=("S",), k=(30,), count=7, min_side=4, max_side=60
    )
    search_source(source, search, out=file, workers=1)
    made = []
    of_settings = Searcher.search
    monkeypatch.setattr(Searcher, "search", lambda *given: made.append(of_settings(*given)))
    (program,) = ladder_regions.programs(recipe).values()
    program.run()
    assert len(made) == program.facts["images"] == min(ladder_regions.IMAGES, len(source))
    stored = ProposalFile(file, source)
    for index, boxes in enumerate(made):
        np.testing.assert_array_equal(boxes, stored(index)[0])
    assert 5 == recipe.data.proposal_count < max(map(len, made))


@pytest.mark.parametrize("made_by", ["", "a network", "[5]", '{"selective_search": {"mode": "fast", "depth": 3}}'])
def test_what_was_made_otherwise_is_not_timed(recipe, made_by):
    recipe, _ = recipe
    stored = read_proposals(recipe.data.root / "val.npz")
    boxes = np.split(stored.boxes, stored.offsets[1:-1])
    write_proposals(recipe.data.root / "val.npz", stored.image_ids, boxes, made_by=made_by)
    assert ladder_regions.programs(recipe) == {} and ladder_regions.describe(recipe)["reads_proposals"]
    without = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, proposals=("", "", "")))
    assert ladder_regions.programs(without) == {} and not ladder_regions.describe(without)["reads_proposals"]


def test_proposals_that_were_not_timed_are_a_dash_and_no_part_of_a_sum(tmp_path):
    rows = [{**ROWS[1], "name": "fast_rcnn", "reads_proposals": True}, {**ROWS[1], "reads_proposals": False}]
    header, _, *lines = ladder_regions.table(rows, {"AP50": "AP50"}).splitlines()
    header, fast, faster = ([cell.strip() for cell in line.strip("|").split("|")] for line in (header, *lines))
    fast, faster = dict(zip(header, fast)), dict(zip(header, faster))
    assert fast["network"].startswith("20.0 ms") and fast["proposals"] == fast["together"] == "–"
    assert faster["proposals"] == "none" and faster["together"] == "20.0 ms"
    assert ladder_regions.plot(rows, tmp_path / "p.png", title="Regions", heading="AP50", name="AP50")


def test_recipes_see_the_same_images():
    recipes = [CONFIGS[name] for name in ladder.LADDERS["regions"].recipes]
    assert len({ladder.images_of(recipe, sizes=True) for recipe in recipes}) == 1


def test_stages_that_are_runs_took_what_their_steps_took(tmp_path):
    """Not what starting, compiling and evaluating took, so that they compare with what is trained in one run."""
    recipe = dataclasses.replace(CONFIGS["sppnet_scenes"], run=tmp_path)
    clock = {"seconds": 99.0, "processor_seconds": 150.0}
    record = {name: clock for name in ("pretrain", "finetune", "features", "svm", "ridge", "detector")}
    (tmp_path / "stages.json").write_text(json.dumps({**record, "disk_mib": 1.0, "made_of": {"features": "abc"}}))
    for name, rate in (("pretrain", 4.0), ("finetune", 8.0)):
        rows = [{"step": n, "images_per_second": rate, "processor_seconds": 7.0} for n in (10, 20)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = ladder_training.describe_stages(recipe)
    assert list(found) == ["pretrain", "finetune", "features", "svm", "ridge"]
    assert found["features"] == found["svm"] == found["ridge"] == clock
    assert [found[name]["seconds"] for name in ("pretrain", "finetune")] == [20 * 8 / 4, 20 * 8 / 8]
    assert found["finetune"]["processor_seconds"] == 14.0
    assert ladder_training.describe_stages(dataclasses.replace(CONFIGS["fast_rcnn_scenes"], run=tmp_path / "x")) == {}


def test_what_is_trained_in_stages_ends_with_a_run_of_no_steps(tmp_path):
    staged, whole = (dataclasses.replace(CONFIGS[f"{name}_scenes"], run=tmp_path) for name in ("rcnn", "fast_rcnn"))
    assert ladder_training.staged(staged) and not ladder_training.staged(whole)
    row = {"step": 0, "eval/AP": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert ladder_training.trained(staged) and not ladder_training.trained(whole)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({**row, "step": whole.steps}) + "\n")
    assert ladder_training.trained(whole)
