"""The data section of recipes whose models learn from label maps: each format is read, and no option does nothing."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from configs.data import Data, Masks, Tfds
from segjax.types import IGNORE
from tests.data.coco_files import annotation
from train.recipes import from_json, to_json

FIELDS = ("label_map",)


@pytest.fixture
def root(tmp_path):
    """Two images with index masks, coloured masks, a list, VOC's folders and a COCO file."""
    ids = np.zeros((40, 60), np.uint8)
    ids[10:20, 10:30], ids[30:] = 1, 2
    colours = np.array([(10, 10, 10), (20, 0, 0), (0, 30, 0)], np.uint8)
    for folder, suffix in (("images", ".jpg"), ("JPEGImages", ".jpg")):
        (tmp_path / folder).mkdir()
        for stem in "ab":
            Image.fromarray(np.repeat(ids[..., None] * 100, 3, axis=2)).save(tmp_path / folder / f"{stem}{suffix}")
    for folder, suffix, pixels in (
        ("masks", "_L.png", ids),
        ("coloured", ".png", colours[ids]),
        ("SegmentationClass", ".png", ids),
    ):
        (tmp_path / folder).mkdir()
        for stem in "ab":
            Image.fromarray(pixels).save(tmp_path / folder / f"{stem}{suffix}")
    (tmp_path / "colours.txt").write_text("10 10 10 ground\n20 0 0 box\n0 30 0 void\n")
    (tmp_path / "train.txt").write_text("/x/images/a.jpg /x/masks/a_L.png\n/x/images/b.jpg /x/masks/b_L.png\n")
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\nb\n")
    box = annotation(1, 1, 5, (10, 10, 20, 10), segmentation=[[10, 10, 30, 10, 30, 20, 10, 20]])
    coco = {
        "images": [{"id": i, "file_name": f"{s}.jpg", "height": 40, "width": 60} for i, s in ((1, "a"), (2, "b"))],
        "categories": [{"id": 5, "name": "box"}],
        "annotations": [box],
    }
    (tmp_path / "train.json").write_text(json.dumps(coco))
    return tmp_path


LISTS = Data(format="lists", train="train.txt", classes=("ground", "box"), masks=Masks(ignore=(2,)))
FOLDERS = Data(
    format="folders", train="images", classes=("ground", "box"), masks=Masks(("masks", "", ""), "_L.png", (0, 1), (2,))
)
COLOURED = Data(
    format="folders",
    train="images",
    classes=("ground", "box"),
    masks=Masks(("coloured", "", ""), colours="colours.txt"),
)


@pytest.mark.parametrize("data", [LISTS, FOLDERS, COLOURED])
def test_mask_files(root, data):
    data = dataclasses.replace(data, root=root)
    source = data.source("train", fields=FIELDS)
    assert source.classes == ("ground", "box") and len(source) == 2
    labels = source.label_map(1)
    assert (labels[10:20, 10:30] == 1).all() and (labels[30:] == IGNORE).all() and (labels[:10] == 0).all()
    assert source.colours == (((10, 10, 10), (20, 0, 0)) if data is not LISTS and data.masks.colours else None)
    with pytest.raises(ValueError, match=r"has the classes \('ground', 'box'\), and is to be read with \('box',\)"):
        data.source("train", ("box",), fields=FIELDS)
    assert data.source("train", ("ground", "box"), fields=FIELDS).classes == source.classes


def test_a_class_may_have_several_numbers(root):
    named = dataclasses.replace(
        LISTS, root=root, classes=("ground", "thing", "thing"), masks=Masks(ids=(0, 1, 2), ignore=())
    )
    source = named.source("train", fields=FIELDS)
    assert source.classes == ("ground", "thing")
    np.testing.assert_array_equal(source.label_map(0), np.asarray(Image.open(root / "masks/a_L.png")) > 0)


def test_names_of_colours_are_the_classes_by_default(root):
    source = dataclasses.replace(COLOURED, root=root, classes=()).source("train", fields=FIELDS)
    assert source.classes == ("ground", "box", "void") and (source.label_map(0)[30:] == 2).all()


def test_voc_and_coco(root):
    source = Data(format="voc", root=root).source("train", fields=FIELDS)
    assert len(source.classes) == 21 and set(np.unique(source.label_map(0))) == {0, 1, 2}
    data = Data(format="coco", root=root, train="train.json", images=("images", "", ""))
    source = data.source("train", fields=FIELDS)
    assert source.classes == ("background", "box") and source.label_map(0).sum() == 200
    assert data.source("train").classes == ("box",)  # the same recipe's objects
    assert data.source("train", ("background", "box"), fields=FIELDS).classes == source.classes


def test_crops_in_training_and_whole_images_in_evaluation(root):
    data = dataclasses.replace(LISTS, root=root, buckets=((32, 32),), evaluation_buckets=((40, 60),), scales=(1.5, 3.0))
    source = data.source("train", fields=FIELDS)
    batch = next(data.training(source, batch_size=2, seed=0, fields=FIELDS))
    assert batch.label_map.shape == (2, 32, 32) and (batch.sizes == 32).all()
    (batch,) = data.evaluation(source, batch_size=2)
    assert batch.label_map is None and batch.images.shape == (2, 40, 60, 3)


@pytest.mark.parametrize(("data", "fields", "message"), [
    (LISTS, (), "'lists' has label maps and no objects, which this model learns from; use one of scenes, coco, voc"),
    (LISTS, ("masks",), "has label maps and no objects"),
    (LISTS, ("label_map", "masks"), r"label maps come without objects.*\(masks\)"),
    (dataclasses.replace(LISTS, agnostic=True), FIELDS, "label maps come without objects"),
    (dataclasses.replace(LISTS, proposals=("a.npz", "", "")), FIELDS, "label maps come without objects"),
    (dataclasses.replace(LISTS, images=("a", "", "")), FIELDS, "data.images means nothing to label maps of .*'lists'"),
    (dataclasses.replace(LISTS, masks=Masks(suffix="_L.png")), FIELDS, "data.masks.suffix means nothing"),
    (dataclasses.replace(LISTS, tfds=Tfds("x")), FIELDS, "data.tfds.name means nothing"),
    (dataclasses.replace(LISTS, classes=()), FIELDS, "data.classes is empty: name the class of each number"),
    (dataclasses.replace(LISTS, masks=Masks(ids=(1,))), FIELDS, "data.masks.ids has 1 numbers for the 2"),
    (dataclasses.replace(COLOURED, masks=Masks(ids=(1,), colours="c")), FIELDS, "data.masks.colours says what"),
    (dataclasses.replace(FOLDERS, masks=Masks()), FIELDS, "data.masks.folders names no folder for train"),
    (Data(format="voc", classes=("a",)), FIELDS, "data.classes means nothing to label maps of the format 'voc'"),
    (Data(format="scenes", masks=Masks(ids=(1,))), (), "data.masks.ids means nothing to objects of .*'scenes'"),
    (Data(format="tfds"), FIELDS, "data.tfds.name is empty"),
    (Data(format="tfds", train=""), FIELDS, "data.train is empty"),
])  # fmt: skip
def test_options_that_would_do_nothing_are_refused(root, data, fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(data, root=root).source("train", fields=fields)


@pytest.mark.parametrize("data", [LISTS, FOLDERS, COLOURED, Data(format="tfds", tfds=Tfds("pets", "photo", "trimap"))])
def test_it_survives_the_file_of_a_run(data):
    again = from_json(Data(), json.loads(json.dumps(to_json(data))))
    assert again == data and hash(again) == hash(data)


def test_tensorflow_datasets_get_what_the_recipe_says(monkeypatch):
    asked = {}
    monkeypatch.setattr("configs.data.TfdsLabelMaps", lambda name, **options: asked.update(options, name=name))
    data = Data(format="tfds", root=pathlib.Path("somewhere"), tfds=Tfds("pets", "photo", "trimap"), train="train[:9]")
    data.source("train", fields=FIELDS)
    assert (asked["name"], asked["split"], asked["data_dir"]) == ("pets", "train[:9]", pathlib.Path("somewhere"))
    assert (asked["image_key"], asked["label_key"], asked["classes"], asked["code"]) == ("photo", "trimap", None, None)
    named = dataclasses.replace(data, classes=("pet", "rest"), masks=Masks(ids=(1, 2), ignore=(3,)))
    named.source("train", fields=FIELDS)
    assert asked["classes"] == ("pet", "rest") and (asked["code"].ids, asked["code"].ignore) == ((1, 2), (3,))
