"""Objects without a cell of their own, against what the codec says of the batches that training makes."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Data
from configs.yolo import YOLOv1
from segjax.data.cells import objects_without_cell
from segjax.ops.grid import encode_cells
from tests import tiny
from train.run import Run, facts, read_data

BUCKETS = ((64, 96),)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """24 images of two shapes; every other one has two objects, the rest one."""
    root = tiny.write_coco(tmp_path_factory.mktemp("data"), count=24)
    return tiny.recipe(root, root / "run", model=YOLOv1(grid=1))


@pytest.fixture(scope="module")
def source(recipe):
    """Its part to train on."""
    return recipe.data.source("train")


@pytest.mark.parametrize("stretch", [False, True])
@pytest.mark.parametrize("buckets", [BUCKETS, ((48, 48), (80, 128))])
def test_what_the_codec_leaves_out_of_unaugmented_batches(source, buckets, stretch):
    data = Data(buckets=buckets, capacity=8, flip=0.0, stretch=stretch)
    batches, lost, seen = data.training(source, batch_size=1, seed=0), 0, set()
    encode = jax.jit(encode_cells, static_argnames=("grid", "size"))
    while len(seen) < len(source):
        batch = next(batches)
        few = jax.tree.map(lambda x: jnp.asarray(x[0]), batch.instances)
        assert not seen & set(batch.samples.tolist()), "an epoch has every image once"
        seen |= set(batch.samples.tolist())
        lost += int(encode(few.boxes, few.labels, few.valid, grid=2, size=batch.images.shape[1:3]).lost)
    batches.close()
    assert lost == objects_without_cell(source, grid=2, buckets=buckets, stretch=stretch) > 0


@pytest.mark.parametrize("reason", ["crowd", "difficult"])
def test_what_is_not_trained_on_is_not_missed(source, monkeypatch, reason):
    every = source.annotations

    def annotations(index):
        objects = every(index)
        return dataclasses.replace(objects, **{reason: np.arange(len(objects.labels)) > 0})

    assert objects_without_cell(source, grid=1, buckets=BUCKETS) == 12
    monkeypatch.setattr(source, "annotations", annotations)
    assert objects_without_cell(source, grid=1, buckets=BUCKETS) == 0


def test_a_model_says_how_many_it_cannot_learn(source):
    """Two objects in every other image."""
    data = Data(buckets=((64, 64),))
    assert YOLOv1(grid=1).left_out(source, data) == {"objects without a cell": 12}
    assert YOLOv1(grid=64).left_out(source, data) == {"objects without a cell": 0}
    assert tiny.MODEL.left_out(source, data) == {}


def test_a_run_says_it_before_training_and_in_its_report(recipe, capsys):
    source, val = read_data(recipe)
    assert "12 objects without a cell are not trained on" in "".join(capsys.readouterr())
    feed = SimpleNamespace(batches=SimpleNamespace(counts={"images": 48, "objects over capacity": 3}))
    made = {"state": SimpleNamespace(params={}), "step": SimpleNamespace(compilations=1), "feed": feed}
    rest = dict.fromkeys(("mesh", "model", "checkpoints"))
    found = facts(Run(recipe=recipe, source=source, val=val, **made, **rest))
    assert found["objects without a cell"] == 12 and found["objects over capacity"] == 3 and "images" not in found
