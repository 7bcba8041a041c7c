"""What inspection counts, against a small data set whose numbers are worked out by hand."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from segjax.data.coco import CocoSource
from segjax.data.inspection import inspect, picture

BUCKETS = ((40, 60), (60, 40), (30, 30))


def annotation(annotation_id, image_id, category_id, bbox, **more):
    return {"id": annotation_id, "image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


@pytest.fixture
def source(tmp_path):
    """Four images: 0 and 1 are 60x40 pixels, 2 is 40x120 and 3, without objects, 60x60 (width x height)."""
    sizes = [(60, 40), (60, 40), (40, 120), (60, 60)]
    for i, size in enumerate(sizes):
        Image.new("RGB", size, (90, 120, 150)).save(tmp_path / f"{i}.png")
    data = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(sizes)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "gnu"}],
        "annotations": [
            annotation(1, 0, 1, [0, 0, 10, 10]),
            annotation(2, 0, 1, [5, 5, 40, 10], segmentation=[[5, 5, 45, 5, 45, 15, 5, 15]]),
            annotation(3, 0, 2, [20, 20, 20, 20]),
            annotation(4, 1, 2, [0, 0, 60, 40], iscrowd=1),
            annotation(5, 2, 1, [0, 0, 40, 120]),
            annotation(6, 2, 1, [0, 0, 40, 40], area=9216.5),
            annotation(7, 2, 1, [3, 3, 0, 0]),
        ],
    }
    (tmp_path / "set.json").write_text(json.dumps(data))
    return CocoSource(tmp_path / "set.json", tmp_path)


@pytest.fixture
def found(source):
    return inspect(source, buckets=BUCKETS, capacity=2, progress=False)


def test_counts_what_is_trained_on(found):
    assert found.labels.tolist() == [0, 0, 1, 0, 0] and found.owners.tolist() == [0, 0, 0, 2, 2]
    assert found.objects_per_image().tolist() == [3, 0, 2, 0]
    assert (found.crowd, found.difficult) == (1, 0)
    assert found.boxes.tolist() == [[10, 10], [40, 10], [20, 20], [40, 120], [40, 40]]


def test_sizes_follow_the_stated_area(found):
    # 100, 400, 400 are small, 4800 is medium, and 9216.5 is the stated area of a box of 1600.
    assert found.size_counts() == {"small": 3, "medium": 1, "large": 1}


def test_objects_beyond_the_capacity(source, found):
    assert found.over_capacity() == (1, 1)
    assert inspect(source, buckets=BUCKETS, capacity=0, decode=False, progress=False).over_capacity() == (5, 2)
    assert inspect(source, buckets=BUCKETS, capacity=3, decode=False, progress=False).over_capacity() == (0, 0)


def test_the_bucket_plan(found):
    assert found.assigned.tolist() == [0, 0, 1, 0]
    # 40x120 becomes 20x60 in 40x60, half of it padding; 60x60 becomes 40x40 in 60x40, a third of it padding.
    np.testing.assert_allclose(found.padding, [0, 0, 1 / 2, 1 / 3])
    np.testing.assert_allclose(found.scales(), [1, 1, 1 / 2, 2 / 3])


def test_text_says_it_all(found):
    text = found.text()
    for line in (
        "set:              4 images, 5 objects of 3 classes",
        "without objects   2 images",
        "not trained on    1 crowd regions, 0 difficult objects",
        "3, most often 60x40 (2)",
        "decoded           4 of 4",
        " 0  cat          4       2           30",
        " 2  gnu          0       0            -",
        "3 small (60%), 1 medium (20%), 1 large (20%)",
        "40 x 60                       3    11.1%          1.00",
        "30 x 30                       0        -             -",
        "padding is 20.8% of all pixels",
        "capacity: 1 objects in 1 images exceed the 2 there is room for in an image; a capacity of 3 holds all",
        "faults: 1\n  1 x zero-size box (skipped): image 2, annotation 7",
    ):
        assert line in text, f"{line!r} is not in\n{text}"


def test_quantiles_of_sizes_in_the_file_and_in_the_bucket(found):
    lines = {line.split("  ")[0]: line.split() for line in found.text().splitlines()}
    sides = np.sqrt([100, 400, 400, 4800, 1600])
    for name, values in (
        ("box size (square root of its area, in pixels)", sides),
        ("the same in its bucket", sides * [1, 1, 1, 0.5, 0.5]),
        ("aspect ratio (width / height)", np.array([1, 4, 1, 1 / 3, 1])),
    ):
        expected = np.quantile(values, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        np.testing.assert_allclose([float(word) for word in lines[name][-7:]], expected, atol=0.051)


def test_images_that_do_not_decode_are_faults(source):
    path = source.info(1).path
    with open(path, "r+b") as file:
        file.truncate(50)
    found = inspect(source, buckets=BUCKETS, capacity=2, progress=False, threads=2)
    inspect(source, buckets=BUCKETS, capacity=2, progress=False)
    assert found.decoded.tolist() == [True, False, True, True]
    assert found.problems.counts() == {"zero-size box (skipped)": 1, "undecodable image (image skipped)": 1}
    assert "decoded           3 of 4" in found.text() and "1.png' (image 1)" in found.text()


def test_without_decoding_no_image_is_read(source):
    def image(index):
        raise AssertionError("decoded")

    source.image = image
    found = inspect(source, buckets=BUCKETS, capacity=2, decode=False, progress=False)
    assert found.decoded is None and "decoded           not tried" in found.text()


def test_nothing_to_train_on_is_said(found):
    none = np.zeros(0, int)
    empty = dataclasses.replace(
        found, labels=none, owners=none, areas=np.zeros(0), boxes=np.zeros((0, 2)), classes=("cat",)
    )
    assert "no objects to train on" in empty.text() and "4 images, 0 objects" in empty.text()


def test_objects_without_masks_and_keypoints_are_counted(source, tmp_path):
    data = json.loads((tmp_path / "set.json").read_text())
    data["categories"][0]["keypoints"] = ["head", "foot"]
    for number, points in (
        (0, [1, 2, 2, 0, 0, 0]),
        (1, [0] * 6),
        (3, [1, 2, 2, 3, 4, 1]),
    ):  # the last is a crowd region
        data["annotations"][number]["keypoints"] = points
    (tmp_path / "joints.json").write_text(json.dumps(data))
    posed = CocoSource(tmp_path / "joints.json", tmp_path, keypoints=True)
    bare = CocoSource(tmp_path / "set.json", tmp_path, segmentations=False)
    for read, lacking in ((posed, (4, 4)), (source, (4, None)), (bare, (None, None))):
        found = inspect(read, buckets=BUCKETS, capacity=2, decode=False, progress=False)
        assert (found.without_mask, found.without_keypoints) == lacking
        assert ("masks             1 objects, 4 without" in found.text()) == (lacking[0] is not None)
        assert ("keypoints         1 objects, 4 without" in found.text()) == (lacking[1] is not None)


def test_many_classes_are_cut_short(found):
    many = dataclasses.replace(found, classes=tuple(f"class {i}" for i in range(150)))
    assert "... and 50 more classes" in many.text() and "class 99" in many.text() and "class 100" not in many.text()


@pytest.mark.parametrize(("options", "message"), [({"capacity": -1}, "capacity=-1"), ({"buckets": ()}, "buckets")])
def test_bad_options_are_named(source, options, message):
    with pytest.raises(ValueError, match=message):
        inspect(source, **{"buckets": BUCKETS, "capacity": 2, **options}, progress=False)


# The picture.


def test_the_picture_shows_labels(source):
    sheet = picture(source, count=4, columns=2, side=120)
    plain = np.array([90, 120, 150])
    # Two cells wide, of 120 pixels each; what is neither background nor white is drawn.
    assert sheet.shape[1] in range(200, 300)
    assert (np.abs(sheet.astype(int) - plain).max(-1) > 40).mean() > 0.1
    assert (sheet == plain).all(-1).mean() > 0.1


def test_the_picture_is_given_masks_and_joints(source, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("segjax.data.inspection.draw_objects", lambda image, *_, **parts: drawn.append(parts) or image)
    data = json.loads((tmp_path / "set.json").read_text())
    data["categories"][0].update(keypoints=["head", "foot"], skeleton=[[1, 2]])
    data["annotations"][1]["keypoints"] = [6, 6, 2, 40, 12, 1]
    (tmp_path / "joints.json").write_text(json.dumps(data))
    picture(CocoSource(tmp_path / "joints.json", tmp_path, keypoints=True), count=1, seed=0)
    picture(source, count=4)
    (posed, *plain) = drawn
    assert all(parts["keypoints"] is None for parts in plain)
    assert posed["skeleton"] == ((0, 1),) and posed["keypoints"].shape[1:] == (2, 3)
    masks = [parts["masks"] for parts in plain if parts["masks"] is not None]
    assert [mask.sum() for mask in masks] == [400] and masks[0][1, 5:15, 5:45].all()


def test_the_picture_is_the_same_for_a_seed(source):
    np.testing.assert_array_equal(picture(source, seed=3), picture(source, seed=3))


def test_images_with_a_new_class_come_first_and_those_without_objects_last(source, monkeypatch):
    shown = []

    def sheet(images, *, columns, captions):
        shown.append(captions)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("segjax.data.inspection.contact_sheet", sheet)
    for seed in range(8):
        picture(source, seed=seed)
        assert shown[-1][-1] == "3: 0 objects" and len(shown[-1]) == 4
        images, seen = [int(caption[0]) for caption in shown[-1]], set()
        while seen != {"cat", "dog"}:
            new = {0: {"cat", "dog"}, 1: {"dog"}, 2: {"cat"}, 3: set()}[images.pop(0)] - seen
            assert new
            seen |= new


def test_an_image_that_does_not_decode_is_left_out_of_the_picture(source):
    whole = picture(source, count=4, columns=1)
    with open(source.info(0).path, "r+b") as file:
        file.truncate(50)
    assert picture(source, count=4, columns=1).shape[0] < whole.shape[0]
