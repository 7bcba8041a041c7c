"""Images of single persons: every pixel, box and joint is where it was in the whole image, less the window's corner."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from configs.data import Data
from segjax.data.crops import CropSource, crop_window
from segjax.data.source import DataError, KeypointNames, Source
from tests.evaluation.listed import ListedSource, objects

JOINTS = KeypointNames(("head", "left_hand", "right_hand"), ((0, 1), (0, 2)), (0, 2, 1))
SIZE = (40, 60)


class Painted(ListedSource):
    """Images whose pixels say where they are: red is x, green y, blue the image."""

    keypoints = JOINTS

    def image(self, index):
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        return np.stack([x, y, np.full_like(x, index)], axis=-1).astype(np.uint8)


def person(*boxes, seen=2, **options):
    """Annotations with joints at the corners and the middle of each box, the second hidden."""
    found = objects(boxes, [0] * len(boxes), **options)
    points = np.zeros((len(boxes), 3, 3), np.float32)
    for row, (x1, y1, x2, y2) in zip(points, boxes):
        row[:] = (x1, y1, seen), (x2, y2, min(seen, 1)), ((x1 + x2) / 2, (y1 + y2) / 2, seen)
    return dataclasses.replace(found, keypoints=points, attributes={"angle": np.arange(len(boxes), dtype=np.float32)})


def listed(*images, classes=("person",)):
    return Painted(list(images), classes=classes, size=SIZE)


@pytest.fixture
def source():
    """Two persons in the first image, none in the second, one in the third, at the border."""
    first = person((10, 10, 30, 20), (35.5, 5.25, 45.5, 35.25), areas=[90, 150], first_id=7)
    return listed(first, person(), person((0, 20, 10, 40), first_id=9))


@pytest.mark.parametrize(("factor", "window"), [
    (1.0, (10, 10, 30, 20)), (1.5, (5, 7, 35, 23)), (2.0, (0, 5, 40, 25)), (9.0, (0, 0, 60, 40)),
])  # fmt: skip
def test_windows_are_enlarged_boxes_in_whole_pixels(factor, window):
    assert crop_window(np.array([10, 10, 30, 20], np.float32), SIZE, factor=factor).tolist() == list(window)


@pytest.mark.parametrize("factor", [1.0, 1.25, 3.0])
def test_crops_are_exact(source, factor):
    crops = CropSource(source, factor=factor)
    assert isinstance(crops, Source) and len(crops) == 3 and crops.name == "listed_crops"
    assert [crops.info(i).image_id for i in range(3)] == ["1:7", "1:8", "3:9"] and crops.keypoints is JOINTS
    for i, (owner, row) in enumerate([(0, 0), (0, 1), (2, 0)]):
        whole, image = source.annotations(owner), crops.image(i)
        found, info = crops.annotations(i), crops.info(i)
        assert image.shape == (info.height, info.width, 3) and info.path == f"{owner}.png"
        left, top = image[0, 0, :2].astype(int)  # the pixels say where the window begins
        np.testing.assert_array_equal(image, source.image(owner)[top : top + info.height, left : left + info.width])
        np.testing.assert_array_equal(found.boxes[0] + [left, top, left, top], whole.boxes[row])
        np.testing.assert_array_equal(found.keypoints[0] + [left, top, 0], whole.keypoints[row])
        assert (found.boxes >= 0).all() and (found.boxes <= [info.width, info.height] * 2).all()
        assert found.areas.tolist() == [whole.areas[row]] and found.ids == (whole.ids[row],)
        assert found.labels.tolist() == [0] and found.attributes["angle"].tolist() == [row]
        x1, y1, x2, y2 = whole.boxes[row]
        assert left == max(np.floor((x1 + x2) / 2 - factor * (x2 - x1) / 2), 0)
        assert top + info.height == min(np.ceil((y1 + y2) / 2 + factor * (y2 - y1) / 2), SIZE[0])
    again = pickle.loads(pickle.dumps(crops))
    assert again.info(1) == crops.info(1) and again.annotations(1).ids == crops.annotations(1).ids


def test_joints_outside_the_window_and_unlabelled_ones_have_no_place(source):
    outside = person((20, 10, 30, 20))
    outside.keypoints[0, 0] = 2, 3, 2
    outside.keypoints[0, 2] = 25, 15, 0
    crops = CropSource(listed(person((3, 3, 9, 9)), dataclasses.replace(outside, ids=(5,))), factor=1.2)
    np.testing.assert_array_equal(crops.annotations(1).keypoints[0], [[0, 0, 0], [11, 11, 1], [0, 0, 0]])
    (problem,) = crops.problems
    assert (problem.image_id, problem.annotation_id) == (2, 5)
    assert crops.problems.summary() == (
        "1 x joints outside their crop (label dropped): image 2, annotation 5: 1 of 2 joints"
    )


def test_who_is_left_out():
    boxes = [(10, 10, 30, 20), (1, 1, 9, 9), (31, 1, 39, 9)]
    crowded = person(*boxes, crowd=[True, False, False], difficult=[False, True, False])
    crops = CropSource(listed(crowded, person((3, 3, 9, 9), (5, 5, 9, 9), seen=0, first_id=20)), factor=1.5)
    assert [crops.info(i).image_id for i in range(len(crops))] == ["1:3"]
    assert [(problem.image_id, problem.annotation_id) for problem in crops.problems] == [(2, 20), (2, 21)]
    assert crops.problems.summary(examples=1) == (
        "2 x object without a labelled joint (not cropped to): image 2, annotation 20; and 1 more"
    )


def test_the_one_class_keeps_its_id():
    several = listed(dataclasses.replace(person((1, 1, 9, 9)), labels=np.array([1])), classes=("cat", "person"))
    several.category_ids = (5, 7)
    crops = CropSource(several, factor=1.0)
    assert (crops.classes, crops.category_ids, crops.annotations(0).labels.tolist()) == (("person",), (7,), [0])


def test_faults(source):
    with pytest.raises(ValueError, match="crops are 0.5 times their box: the factor must be a number from 1 on"):
        CropSource(source, factor=0.5)
    with pytest.raises(ValueError, match="crops are nan times"):
        CropSource(source, factor=float("nan"))
    with pytest.raises(ValueError, match="listed has no joints, and crops are of objects that have"):
        CropSource(ListedSource([objects()]), factor=1.0)
    with pytest.raises(DataError, match="no object has a labelled joint"):
        CropSource(listed(person()), factor=1.0)
    two = dataclasses.replace(person((1, 1, 9, 9), (2, 2, 8, 8)), labels=np.array([0, 1]))
    with pytest.raises(DataError, match=r"several classes have joints \(cat, dog\), and crops are of one"):
        CropSource(listed(two, classes=("cat", "dog")), factor=1.0)


@pytest.fixture
def root(tmp_path):
    """A COCO file of one image with two persons of three joints, and a cat."""
    Image.fromarray(Painted([person()], size=SIZE).image(0)).save(tmp_path / "a.png")
    points = [12, 11, 2, 28, 19, 2, 20, 15, 1]
    boxes = {1: [10, 10, 20, 10], 2: [35, 5, 10, 30]}
    persons = [
        {"id": i, "image_id": 4, "category_id": 3, "bbox": box, "keypoints": points if i == 1 else [40, 20, 2] * 3}
        for i, box in boxes.items()
    ]
    coco = {
        "images": [{"id": 4, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 3, "name": "person", "keypoints": list(JOINTS.names)}, {"id": 8, "name": "cat"}],
        "annotations": [*persons, {"id": 3, "image_id": 4, "category_id": 8, "bbox": [0, 0, 9, 9]}],
    }
    (tmp_path / "train.json").write_text(json.dumps(coco))
    return tmp_path


def test_a_recipe_crops_and_a_mirrored_person_has_left_and_right_exchanged(root):
    data = Data(format="coco", root=root, train="train.json", crops=1.5, buckets=((16, 30),), capacity=1, flip=1.0)
    crops = data.source("train", fields=("keypoints",))
    assert crops.classes == ("person",) and crops.category_ids == (3,) and len(crops) == 2
    example = next(data.training(crops, batch_size=2, seed=0, fields=("keypoints",)))
    row = int(np.flatnonzero(example.samples == 0)[0])
    # The window is (5, 7) to (35, 23), the size of the bucket; mirrored, x becomes 30 - (x - 5).
    assert example.sizes[row].tolist() == [16, 30]
    np.testing.assert_array_equal(example.images[row, 0, :, 0], np.arange(34, 4, -1))
    wanted = [[23, 4, 2], [15, 8, 1], [7, 12, 2]]
    np.testing.assert_array_equal(example.instances.keypoints[row, 0], wanted)
    np.testing.assert_array_equal(example.instances.boxes[row, 0], [5, 3, 25, 13])


@pytest.mark.parametrize(("options", "fields"), [
    ({"crops": 0.5}, ("keypoints",)),
    ({"crops": 1.5}, ()),
    ({"crops": 1.5}, ("masks",)),
    ({"crops": 1.5, "proposals": ("a.npz", "", "")}, ("keypoints",)),
    ({"crops": 1.5}, ("label_map",)),
])  # fmt: skip
def test_crops_that_make_no_sense_are_refused(root, options, fields):
    with pytest.raises(ValueError, match=r"data\.crops is .*: it is a factor, from 1 on"):
        Data(format="coco", root=root, train="train.json", **options).source("train", fields=fields)
