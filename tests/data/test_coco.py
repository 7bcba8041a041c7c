"""The COCO reader against pycocotools, and what it says of each kind of fault."""

import copy
import functools
import gc
import pickle

import numpy as np
import pytest
from pycocotools.coco import COCO

from segjax.data.coco import CocoSource
from segjax.data.segmentations import segmentation_to_mask
from segjax.data.source import DataError
from tests.data.coco_files import SQUARE, annotation, only_fault


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own decoding
def test_agrees_with_pycocotools(write, data):
    file, images = write(data)
    source, reference = CocoSource(file, images), COCO(str(file))
    assert (len(source), len(source.problems)) == (3, 0)
    for i in range(len(source)):
        info, found = source.info(i), source.annotations(i)
        expected = reference.loadAnns(reference.getAnnIds(imgIds=[info.image_id]))
        assert found.ids == tuple(a["id"] for a in expected)
        for j, item in enumerate(expected):
            x, y, w, h = item["bbox"]
            np.testing.assert_allclose(found.boxes[j], [x, y, x + w, y + h])
            assert source.category_ids[found.labels[j]] == item["category_id"]
            assert found.crowd[j] == bool(item.get("iscrowd", 0)) and not found.difficult[j]
            if "segmentation" in item:
                assert found.segmentations[j] == item["segmentation"]
                mask = segmentation_to_mask(found.segmentations[j], info.height, info.width)
                np.testing.assert_array_equal(mask, reference.annToMask(item))


def test_classes_follow_the_order_of_category_ids(read, data):
    source = read(data)
    assert source.classes == ("cat", "dog", "zebra") and source.category_ids == (3, 17, 90)
    assert source.annotations(0).labels.tolist() == [2, 1, 0]


def test_images_keep_the_order_of_the_file_and_may_have_no_object(read, data):
    source = read(data, name="mine")
    assert [source.info(i).image_id for i in range(3)] == [7, 1, 5] and source.name == "mine"
    assert source.annotations(2).boxes.shape == (0, 4) and source.annotations(2).ids == ()
    assert source.image(2).shape == (40, 60, 3) and source.image(2)[0, 0].tolist() == [200, 100, 50]


def test_area_is_stated_else_of_the_mask_else_of_the_box(read, data):
    assert read(data).annotations(0).areas.tolist() == [99.5, 300.0, 2400.0]


def test_without_segmentations(read, data):
    source = read(data, segmentations=False)
    assert source.annotations(0).segmentations == (None, None, None)


def test_ids_may_be_text(read, data):
    for item in data["annotations"]:
        item["id"] = f"a{item['id']}"
    data["images"][0]["id"] = "seven"
    for item in data["annotations"]:
        item["image_id"] = "seven" if item["image_id"] == 7 else item["image_id"]
    source = read(data)
    assert source.info(0).image_id == "seven" and source.annotations(0).ids == ("a100", "a9", "a2")
    assert type(source.info(1).image_id) is int


def test_reading_leaves_garbage_collection_as_it_was(read, data):
    assert gc.isenabled()
    read(data)
    with pytest.raises(DataError):
        read("no JSON")
    assert gc.isenabled()


def test_a_source_survives_pickling(read, data):
    data["annotations"].append(annotation(50, bbox=(10, 10, 0, 5)))
    source = read(data)
    again = pickle.loads(pickle.dumps(source))
    assert list(again.problems) == list(source.problems) and again.info(1) == source.info(1)
    assert again.annotations(0).segmentations == source.annotations(0).segmentations
    np.testing.assert_array_equal(again.image(0), source.image(0))


def test_returned_arrays_are_the_callers_own(read, data):
    source = read(data)
    source.annotations(0).boxes[:] = 0
    assert source.annotations(0).boxes.max() == 60


# Class maps.


def test_a_given_class_map_is_matched_by_name(read, data):
    source = read(data, classes=("zebra", "gnu", "cat"))
    assert source.category_ids == (90, None, 3)
    assert source.annotations(0).labels.tolist() == [0, 2] and source.annotations(0).ids == (100, 2)
    problem = only_fault(source, "category not in the class map", 7, 9)
    assert "'dog' (id 17)" in problem.detail and "first of 1" in problem.detail


def test_left_out_categories_are_reported_once_each(read, data):
    data["annotations"] += [annotation(1000 + i, 5, 17) for i in range(50)]
    assert (
        "first of 51" in only_fault(read(data, classes=("zebra", "cat")), "category not in the class map", 7, 9).detail
    )


def test_a_class_map_without_a_common_name_stops(read, data):
    with pytest.raises(DataError, match=r"instances\.json.*none of its 4 annotations.*category 'zebra'"):
        read(data, classes=("gnu",))


@pytest.mark.parametrize("second", [{"id": 3, "name": "gnu"}, {"id": 4, "name": "cat"}])
def test_categories_must_be_unique(read, data, second):
    data["categories"].append(second)
    with pytest.raises(DataError, match=r"instances\.json.*categories\[3\] repeats"):
        read(data)


# Boxes.


@pytest.mark.parametrize(
    ("bbox", "kind"),
    [
        ((10, 10, 0, 5), "zero-size box"),
        ((10, 10, 5, 0), "zero-size box"),
        ((59.999999999, 10, 1e-12, 5), "zero-size box"),
        ((10, 10, -4, 5), "inverted box"),
        ((60, 10, 5, 5), "box outside the image"),
        ((-9, 10, 9, 5), "box outside the image"),
        ((10, 1e9, 5, 5), "box outside the image"),
        ((10, float("nan"), 5, 5), "malformed or non-finite box"),
        ((10, 10, float("inf"), 5), "malformed or non-finite box"),
        ((10, 10, 1e300, 5), "malformed or non-finite box"),
        ((10, 10, 5), "malformed or non-finite box"),
        ((10, 10, 5, "5"), "malformed or non-finite box"),
        ((10, 10, 5, None), "malformed or non-finite box"),
        ((), "malformed or non-finite box"),
    ],
)
def test_unusable_boxes_are_skipped(read, data, bbox, kind):
    data["annotations"].append(annotation(55, 5, bbox=bbox))
    source = read(data)
    problem = only_fault(source, kind, 5, 55)
    assert problem.action == "skipped" and str(list(bbox)) in problem.detail.replace("NaN", "nan")
    assert source.annotations(2).ids == ()


@pytest.mark.parametrize("bbox", [None, "10,10,5,5", 3, {"x": 1}])
def test_a_box_that_is_no_list_is_skipped(read, data, bbox):
    data["annotations"].append({**annotation(55, 5), "bbox": bbox})
    only_fault(read(data), "malformed or non-finite box", 5, 55)


@pytest.mark.parametrize(
    ("bbox", "clipped"),
    [((-5, 10, 20, 10), (0, 10, 15, 20)), ((50, 30, 20, 20), (50, 30, 60, 40)), ((-1e5, -9, 2e5, 99), (0, 0, 60, 40))],
)
def test_boxes_partly_outside_are_clipped_and_reported(read, data, bbox, clipped):
    data["annotations"].append(annotation(55, 5, bbox=bbox))
    source = read(data)
    assert only_fault(source, "box partly outside the image", 5, 55).action == "clipped"
    assert source.annotations(2).boxes.tolist() == [list(clipped)]


def test_an_overshoot_of_a_pixel_is_rounding(read, data):
    data["annotations"].append(annotation(55, 5, bbox=(-0.5, -1, 61, 42)))
    source = read(data)
    assert len(source.problems) == 0 and source.annotations(2).boxes.tolist() == [[0, 0, 60, 40]]


# References between records.


def test_an_unknown_image_is_reported(read, data):
    data["annotations"].append(annotation(55, 999))
    assert only_fault(read(data), "unknown image", 999, 55).action == "skipped"


def test_an_unknown_category_is_reported(read, data):
    data["annotations"].append(annotation(55, 5, 4))
    assert "category 4" in only_fault(read(data), "unknown category", 5, 55).detail


def test_a_repeated_annotation_id_is_reported(read, data):
    data["annotations"].append(annotation(4, 5))
    source = read(data)
    only_fault(source, "duplicate annotation id", 5, 4)
    assert source.annotations(1).ids == (4,) and source.annotations(2).ids == ()


def test_a_repeated_image_id_is_reported(read, data):
    data["images"].append({**data["images"][2], "id": 7})
    source = read(data)
    assert "five.png" in only_fault(source, "duplicate image id", 7).detail and len(source) == 3
    assert source.info(0).path.endswith("seven.png")


def test_every_fault_is_counted_once(read, data):
    data["annotations"] += [annotation(50 + i, 5, bbox=(10, 10, 0, 5)) for i in range(5)]
    data["annotations"] += [annotation(60, 5, bbox=(10, 10, -1, 5)), annotation(61, 999)]
    source = read(data)
    for _ in range(2):
        source.annotations(2)
    assert source.problems.counts() == {
        "zero-size box (skipped)": 5,
        "unknown image (skipped)": 1,
        "inverted box (skipped)": 1,
    }


# Image files.


def test_a_missing_file_skips_its_image_only(read, data):
    data["images"][1]["file_name"] = "gone.png"
    source = read(data)
    assert "'gone.png'" in only_fault(source, "missing image file", 1).detail
    assert [source.info(i).image_id for i in range(len(source))] == [7, 5]
    assert source.annotations(0).ids == (100, 9, 2)


@pytest.mark.parametrize("name", ["../instances.json", "/etc/passwd", "x/../../instances.json", "link.png"])
def test_a_file_outside_the_folder_is_never_opened(read, data, tmp_path, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link.png").symlink_to("/etc/passwd")
    data["images"][1]["file_name"] = name
    source = read(data)
    problem = only_fault(source, "file outside the data folder", 1)
    assert repr(name) in problem.detail and problem.action == "image skipped" and len(source) == 2


@pytest.mark.parametrize("size", [{}, {"height": 0, "width": 60}, {"height": 40, "width": -1}, {"height": "40"}])
@pytest.mark.parametrize("extra", [{}, {"width": 10**9, "height": 40}], ids=["", "absurd"])
def test_a_size_that_cannot_be_is_read_from_the_file(read, data, size, extra):
    image = data["images"][2]
    data["images"][2] = {"id": image["id"], "file_name": image["file_name"], **(extra or size)}
    source = read(data)
    assert only_fault(source, "image without a usable size", 5).action == "size read from the file"
    assert source.info(2)[2:] == (40, 60)


def test_another_size_than_stated_stops_decoding(read, data):
    data["images"][2]["width"] = 59
    with pytest.raises(DataError, match=r"five\.png.*image 5.*60x40.*59x40"):
        read(data).image(2)


def test_a_truncated_image_is_named(read, data):
    source = read(data)
    path = source.info(2).path
    with open(path, "r+b") as file:
        file.truncate(60)
    with pytest.raises(DataError, match=r"five\.png.*image 5.*cannot be decoded"):
        source.image(2)


# Files that are not COCO.


@pytest.mark.parametrize(
    ("content", "message"),
    [("{'images': []}", "not valid JSON"), ("", "not valid JSON"), ("[1]", "holds a list"), ("{", "not valid JSON")],
)
def test_what_is_no_coco_json_is_named(read, content, message):
    with pytest.raises(DataError, match=rf"instances\.json.*{message}"):
        read(content)


@pytest.mark.parametrize(
    ("section", "field", "where"),
    [
        (None, "images", "the file"),
        (None, "annotations", "the file"),
        (None, "categories", "the file"),
        ("images", "id", r"images\[0\]"),
        ("images", "file_name", r"images\[0\]"),
        ("categories", "id", r"categories\[0\]"),
        ("categories", "name", r"categories\[0\]"),
        ("annotations", "id", r"annotations\[0\]"),
        ("annotations", "image_id", r"annotations\[0\]"),
        ("annotations", "category_id", r"annotations\[0\] \(id 100\)"),
        ("annotations", "bbox", r"annotations\[0\] \(id 100\)"),
    ],
)
def test_a_missing_field_is_named(read, data, section, field, where):
    del (data if section is None else data[section][0])[field]
    with pytest.raises(DataError, match=rf"instances\.json.*{where} has no '{field}'"):
        read(data)


@pytest.mark.parametrize("value", [None, 1.5, [1], True])
def test_an_id_that_is_none_is_named(read, data, value):
    data["annotations"][1]["image_id"] = value
    with pytest.raises(DataError, match=r"annotations\[1\] has 'image_id' .* not an id"):
        read(data)


def test_a_section_of_another_type_is_named(read, data):
    with pytest.raises(DataError, match="'images' is not a list of objects"):
        read({**data, "images": {"1": {}}})


def test_missing_paths_are_named(tmp_path, write, data):
    file, images = write(data)
    with pytest.raises(DataError, match=r"gone\.json.*cannot be read"):
        CocoSource(tmp_path / "gone.json", images)
    with pytest.raises(DataError, match=r"image folder .*gone"):
        CocoSource(file, tmp_path / "gone")


@pytest.mark.parametrize("what", ["images", "annotations"])
def test_nothing_usable_stops_with_one_sentence(read, data, what):
    for image in data["images"] if what == "images" else ():
        image["file_name"] = "gone.png"
    for item in data["annotations"] if what == "annotations" else ():
        item["bbox"] = [10, 10, 0, 0]
    with pytest.raises(DataError, match=rf"instances\.json.*none of its \d {what} can be used \(\d x ") as caught:
        read(data)
    assert "\n" not in str(caught.value)


def places(value, path=()):
    """Every path into nested lists and objects."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


@pytest.mark.parametrize("garbage", [None, -1, "\ud800", [], {}, [[None]], 10**400, float("nan")], ids=range(8))
def test_garbage_anywhere_is_a_fault_or_one_sentence(read, garbage):
    data = {
        "images": [{"id": 1, "file_name": "one.png", "height": 40, "width": 60}],
        "categories": [{"id": 3, "name": "cat", "keypoints": ["left", "right"], "skeleton": [[1, 2]]}],
        "annotations": [
            annotation(1, area=9, iscrowd=0, keypoints=[1, 2, 2, 3, 4, 1], segmentation=SQUARE),
            annotation(2, segmentation={"size": [40, 60], "counts": [100, 2300]}),
        ],
    }
    for path in places(data):
        broken = copy.deepcopy(data)
        target = functools.reduce(lambda value, key: value[key], path[:-1], broken)
        target[path[-1]] = garbage
        try:
            source = read(broken, keypoints=True)
        except DataError as error:
            assert "instances.json" in str(error) and "\n" not in str(error), path
        else:
            found = source.annotations(0)
            assert np.isfinite(found.boxes).all() and np.isfinite(found.areas).all(), path
