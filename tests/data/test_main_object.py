"""The main object of each image: which it is, what is left out, and every format of the data section."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from configs.data import Data
from segjax.data.coco import CocoSource
from segjax.data.main_object import NONE, MainObjectSource, main_object
from segjax.data.source import DataError, Source
from tests.data.coco_files import annotation
from tests.evaluation.listed import ListedSource, objects

A, B, C = [0, 0, 20, 20], [50, 50, 80, 80], [0, 60, 30, 90]


@pytest.mark.parametrize(("annotations", "main"), [
    (objects([A, B], [0, 1]), 1),
    (objects([A, B], [0, 1], areas=[400, 399]), 0),  # visible areas, not those of boxes
    (objects([A, B, C], [0, 1, 2]), 1),  # of equal ones the first
    (objects([A, B, C], [0, 1, 2], crowd=[False, True, False], difficult=[False, False, True]), 0),
    (objects([B], [1], crowd=[True]), None),
    (objects([B], [1], difficult=[True]), None),
    (objects(), None),
])  # fmt: skip
def test_which_it_is(annotations, main):
    assert main_object(annotations) == main


def test_images_without_one_are_left_out_and_said():
    listed = [objects([A, B], [0, 1]), objects(), objects([A], [2], crowd=[True]), objects([C, A], [2, 0])]
    inner = ListedSource(listed, ids=["w", "x", "y", "z"])
    source = MainObjectSource(inner)
    assert isinstance(source, Source) and len(source) == 2 and source.classes == inner.classes
    assert [source.info(i).image_id for i in range(2)] == ["w", "z"]
    assert [source.image(i)[0, 0, 0] for i in range(2)] == [90, 93]
    assert [source.annotations(i).labels.tolist() for i in range(2)] == [[1], [2]]
    assert source.annotations(0).boxes.tolist() == [B] and source.annotations(0).ids == (2,)
    assert source.problems.counts() == {f"{NONE} (left out)": 2}
    assert "2 x image without an object (left out): image 'x'; image 'y'" in source.problems.summary()
    again = pickle.loads(pickle.dumps(source))
    assert len(again) == 2 and again.annotations(1).boxes.tolist() == [C]


def test_all_that_is_known_of_it_is_kept(data, write):
    data["annotations"][0]["attributes"] = {"angle": 0.5}
    file, images = write(data)
    options = {"segmentations": True, "attributes": ("angle",)}
    inner = CocoSource(file, images, **options)
    source = MainObjectSource(inner)
    assert source.category_ids == inner.category_ids and source.name == inner.name
    # Image 7 has three objects; the crowd of image 1 and the empty image 5 are left out.
    assert len(source) == 1 and source.info(0).image_id == 7
    found, whole = source.annotations(0), inner.annotations([inner.info(i).image_id for i in range(3)].index(7))
    row = int(np.argmax(whole.areas))
    for field in dataclasses.fields(found):
        name = field.name
        if name == "attributes":
            np.testing.assert_array_equal(found.attributes["angle"], whole.attributes["angle"][[row]])
        elif name != "keypoints":
            np.testing.assert_array_equal(getattr(found, name)[0], getattr(whole, name)[row])


def test_a_data_set_without_any():
    with pytest.raises(DataError, match="listed: none of its 2 images has an object that is neither a crowd nor"):
        MainObjectSource(ListedSource([objects(), objects([A], [0], crowd=[True])]))


@pytest.fixture
def root(tmp_path):
    """Two images, the first with a small and a large object and the second with none, as COCO, VOC and YOLO."""
    for folder in ("images", "JPEGImages", "labels", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for stem in "ab":
        for folder in ("images", "JPEGImages"):
            Image.new("RGB", (60, 40)).save(tmp_path / folder / f"{stem}.jpg")
    coco = {
        "images": [{"id": i, "file_name": f"{s}.jpg", "height": 40, "width": 60} for i, s in ((1, "a"), (2, "b"))],
        "categories": [{"id": 5, "name": "box"}, {"id": 6, "name": "ball"}],
        "annotations": [annotation(1, 1, 5, (0, 0, 10, 10)), annotation(2, 1, 6, (20, 10, 30, 20))],
    }
    (tmp_path / "train.json").write_text(json.dumps(coco))
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\n")
    thing = (
        "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
    )
    size = "<size><width>60</width><height>40</height><depth>3</depth></size>"
    both = thing.format("box", 1, 1, 10, 10) + thing.format("ball", 21, 11, 50, 30)
    for stem, found in (("a", both), ("b", "")):
        text = f"<annotation><filename>{stem}.jpg</filename>{size}{found}</annotation>"
        (tmp_path / f"Annotations/{stem}.xml").write_text(text)
    (tmp_path / "labels/a.txt").write_text("0 0.08 0.12 0.16 0.24\n1 0.58333333 0.5 0.5 0.5\n")
    (tmp_path / "labels/b.txt").write_text("")
    return tmp_path


@pytest.mark.parametrize("data", [
    Data(format="coco", train="train.json", images=("images", "", "")),
    Data(format="voc", classes=("box", "ball")),
    Data(format="yolo", train="images", classes=("box", "ball")),
])  # fmt: skip
def test_every_format_of_objects(root, data):
    data = dataclasses.replace(data, root=root, main_object=True, capacity=1, buckets=((40, 60),), flip=0.0)
    source = data.source("train")
    assert len(source) == 1 and len(source.problems) == 1
    assert source.classes[source.annotations(0).labels[0]] == "ball"
    np.testing.assert_allclose(source.annotations(0).boxes, [[20, 10, 50, 30]], atol=1e-4)
    batch = next(data.training(source, batch_size=1, seed=0))
    np.testing.assert_allclose(batch.instances.boxes, [[[20, 10, 50, 30]]], atol=1e-4)


def test_the_largest_of_any_class(root):
    """With `agnostic`, the main object is of the one class."""
    data = Data(
        format="coco", root=root, train="train.json", images=("images", "", ""), main_object=True, agnostic=True
    )
    source = data.source("train")
    assert source.classes == ("object",) and source.annotations(0).labels.tolist() == [0]


def test_label_maps_have_no_objects(root):
    data = Data(format="folders", root=root, train="images", main_object=True)
    with pytest.raises(ValueError, match="label maps come without objects: data.agnostic, data.main_object"):
        data.source("train", fields=("label_map",))
