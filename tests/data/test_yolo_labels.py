"""The reader of YOLO's text labels, and what it says of each kind of fault."""

import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

from configs.data import Data
from segjax.data.inspection import inspect
from segjax.data.source import DataError, Source
from segjax.data.yolo_labels import YoloSource, read_names
from tests.data.test_voc import only_fault

NAMES = ("cat", "dog", "cow")


@pytest.fixture
def root(tmp_path):
    """Images a, b, sub/c of 60x40 pixels; two objects in a, none in b, one in c."""
    for folder in ("images/sub", "labels/sub"):
        (tmp_path / folder).mkdir(parents=True)
    for stem in ("a", "b", "sub/c"):
        Image.new("RGB", (60, 40), (200, 100, 50)).save(tmp_path / "images" / f"{stem}.jpg")
    write(tmp_path, "a", "0 0.25 0.25 0.5 0.5", "2 0.5 0.5 1 1")
    write(tmp_path, "b")
    write(tmp_path, "sub/c", "1 .5 5e-1 0.1 0.2")
    (tmp_path / "obj.names").write_text("cat\ndog\ncow\n")
    return tmp_path


def write(root, stem, *lines):
    (root / "labels" / f"{stem}.txt").write_text("\n".join(lines))


def read(root, **options):
    return YoloSource(root / "images", root / "labels", **{"names": NAMES, **options})


def test_reads_a_folder(root):
    source = read(root, name="mine")
    assert isinstance(source, Source)
    assert (len(source), source.name, source.classes, len(source.problems)) == (3, "mine", NAMES, 0)
    assert [source.info(i).image_id for i in range(3)] == ["a", "b", "sub/c"]
    assert source.info(2)[1:] == (str(root / "images/sub/c.jpg"), 40, 60)
    found = source.annotations(0)
    assert found.boxes.tolist() == [[0, 0, 30, 20], [0, 0, 60, 40]] and found.areas.tolist() == [600, 2400]
    assert found.labels.tolist() == [0, 2] and found.ids == ("a:1", "a:2") and found.segmentations == (None, None)
    assert not found.crowd.any() and not found.difficult.any()
    assert source.annotations(1).boxes.shape == (0, 4)
    np.testing.assert_allclose(source.annotations(2).boxes, [[27, 16, 33, 24]], rtol=1e-6)
    np.testing.assert_allclose(source.image(0)[5, 5], [200, 100, 50], atol=3)
    again = pickle.loads(pickle.dumps(source))
    assert again.info(2) == source.info(2) and again.annotations(0).ids == found.ids


def test_names_from_a_file(root):
    (root / "obj.names").write_bytes(b"\xef\xbb\xbfcat \r\ndog\r\nbig cow\r\n\r\n")
    assert read(root, names=root / "obj.names").classes == ("cat", "dog", "big cow") == read_names(root / "obj.names")


@pytest.mark.parametrize(("content", "message"), [
    ("", "is empty"), ("\n\n", "is empty"), ("a\n\nb", "has an empty line"), ("a\nb\na", "has a name twice"),
    (None, "cannot be read from .*obj.names"),
])  # fmt: skip
def test_a_file_without_names_is_named(root, content, message):
    (root / "obj.names").unlink()
    if content is not None:
        (root / "obj.names").write_text(content)
    with pytest.raises(DataError, match=message):
        read_names(root / "obj.names")


def test_a_given_class_map_selects_and_reorders(root):
    source = read(root, classes=("cow", "dog"))
    assert source.classes == ("cow", "dog")
    assert source.annotations(0).labels.tolist() == [0] and source.annotations(0).ids == ("a:2",)
    assert source.annotations(2).labels.tolist() == [1]
    assert "first of 1 named 'cat'" in only_fault(source, "unknown category", "a", "a:1").detail
    with pytest.raises(DataError, match="has no class 'horse'; its classes are cat, dog, cow"):
        read(root, classes=("cow", "horse"))


# Lines.


@pytest.mark.parametrize(("line", "kind"), [
    ("0 0.5 0.5 0.5", "label line that is not five numbers"),
    ("0 0.5 0.5 0.5 0.5 0.9", "label line that is not five numbers"),
    ("0 0.1 0.1 0.4 0.1 0.4 0.4 0.1 0.4", "label line that is not five numbers"),
    ("cat 0.5 0.5 0.5 0.5", "label line that is not five numbers"),
    ("0,0.5,0.5,0.5,0.5", "label line that is not five numbers"),
    ("0 nan 0.5 0.5 0.5", "label line that is not five numbers"),
    ("0 0.5 0.5 1e999 0.5", "label line that is not five numbers"),
    ("3 0.5 0.5 0.5 0.5", "class that is not a whole number from 0 to 2"),
    ("-1 0.5 0.5 0.5 0.5", "class that is not a whole number from 0 to 2"),
    ("0.5 0.5 0.5 0.5 0.5", "class that is not a whole number from 0 to 2"),
    ("0 30 20 10 10", "box with numbers outside 0 to 1"),
    ("0 0.5 -0.2 0.5 0.5", "box with numbers outside 0 to 1"),
    ("0 0.5 0.5 -0.5 0.5", "box with numbers outside 0 to 1"),
    ("0 0.5 0.5 0.5 1.1", "box with numbers outside 0 to 1"),
    ("0 0.5 0.5 0 0.5", "zero-size box"),
    ("0 0.5 0.5 -0.001 0.5", "inverted box"),
])  # fmt: skip
def test_a_line_that_cannot_be_used_is_named_and_skipped(root, line, kind):
    write(root, "sub/c", "0 0.5 0.5 0.5 0.5", "", line, "1 0.5 0.5 1 1")
    source = read(root)
    problem = only_fault(source, kind, "sub/c", "sub/c:3") if "box" in kind and "numbers" not in kind else None
    if problem is None:
        (problem,) = source.problems
        assert (problem.kind, problem.annotation_id) == (kind, "sub/c:3")
        assert "line 3 of sub/c.txt" in problem.detail
    assert problem.action == "skipped" and repr(line) in problem.detail
    assert source.annotations(2).ids == ("sub/c:1", "sub/c:4")


def test_all_faults_are_collected(root):
    write(root, "a", "9 0.5 0.5 0.1 0.1", "0 0.5 0.5", "0 0.5 0.5 0.1 0.1", "0 7 0.5 0.1 0.1", "1 2 3")
    write(root, "b", "x", "0 0.5 0.5 0.5 0.5")
    source = read(root)
    assert source.problems.counts() == {
        "label line that is not five numbers (skipped)": 3,
        "class that is not a whole number from 0 to 2 (skipped)": 1,
        "box with numbers outside 0 to 1 (skipped)": 1,
    }
    assert [source.annotations(i).ids for i in range(2)] == [("a:3",), ("b:2",)]
    assert "line 2 of a.txt" in source.problems.summary() and "line 1 of b.txt" in source.problems.summary()


def test_boxes_partly_outside_are_clipped_and_reported(root):
    write(root, "a", "0 0.9 0.5 0.5 0.5", "0 0.5 0.5 1.01 1.0000001")
    source = read(root)
    assert only_fault(source, "box partly outside the image", "a", "a:1").action == "clipped"
    np.testing.assert_allclose(source.annotations(0).boxes, [[39, 10, 60, 30], [0, 0, 60, 40]], rtol=1e-5)


def test_a_long_line_is_cut(root):
    write(root, "a", "0 " * 200)
    assert all(len(problem.detail) < 150 for problem in read(root).problems)


# Files.


def test_an_image_without_a_label_file_is_empty(root):
    (root / "labels/a.txt").unlink()
    source = read(root)
    assert len(source) == 3 and len(source.annotations(0).ids) == 0
    problem = only_fault(source, "image without a label file", "a")
    assert problem.action == "taken to be empty" and "a.txt" in problem.detail


def test_labels_without_an_image_are_named(root):
    (root / "images/sub/c.jpg").unlink()
    (root / "labels/classes.txt").write_text("cat\ndog\ncow\n")
    source = read(root)
    assert [source.info(i).image_id for i in range(len(source))] == ["a", "b"]
    problem = only_fault(source, "missing image file", "sub/c")
    assert problem.action == "labels skipped" and "sub/c.txt" in problem.detail


@pytest.mark.parametrize(("file", "content", "kind"), [
    ("images/b.jpg", b"no image", "undecodable image"),
    ("labels/b.txt", b"\xff\xfe\x00", "unreadable label file"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_skips_its_image(root, file, content, kind):
    (root / file).write_bytes(content)
    source = read(root)
    assert only_fault(source, kind, "b").action == "image skipped"
    assert [source.info(i).image_id for i in range(2)] == ["a", "sub/c"] and source.annotations(1).ids == ("sub/c:1",)


def test_two_images_of_one_name_are_named(root):
    Image.new("RGB", (20, 20)).save(root / "images/a.png")
    source = read(root)
    assert len(source) == 3 and source.info(0).path.endswith("a.jpg")
    assert "a.png has the same label file as a.jpg" in only_fault(source, "duplicate image id", "a").detail


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_a_link_out_of_the_folder_is_never_opened(root, tmp_path_factory, folder):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (path,) = (root / folder).glob("b.*")
    path.rename(elsewhere / path.name)
    path.symlink_to(elsewhere / path.name)
    source = read(root)
    only_fault(source, "file outside the data folder", "b")
    assert len(source) == 2


@pytest.mark.parametrize("folder", ["images", "labels"])
def test_a_missing_folder_is_named(root, folder):
    (root / folder).rename(root / "elsewhere")
    with pytest.raises(DataError, match=f"folder .*{folder}"):
        read(root)


def test_nothing_usable_stops_with_one_sentence(root):
    for stem in ("a", "sub/c"):
        write(root, stem, "0 7 7 7 7")
    with pytest.raises(DataError, match=r"images.* can be used: none of its 0 objects can .*2 x box with") as caught:
        read(root)
    assert "\n" not in str(caught.value)
    (root / "none").mkdir()
    with pytest.raises(DataError, match="none of its images can be used"):
        YoloSource(root / "none", root / "labels", names=NAMES)


def test_it_can_be_inspected(root):
    write(root, "a", "0 0.5 0.5 0.5")
    text = inspect(read(root), buckets=((40, 60),), capacity=2, progress=False).text()
    assert "label line that is not five numbers" in text and "line 1 of a.txt" in text and "dog" in text


# Recipes.


def test_a_recipe_reads_it(root):
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / part).mkdir()
    for kind, suffix in (("images", ".jpg"), ("labels", ".txt")):
        for i, stem in enumerate("ab"):
            (root / kind / f"{stem}{suffix}").rename(root / kind / ("train", "val")[i] / f"{stem}{suffix}")
    write(root, "val/b", "2 0.5 0.5 0.5 0.5")
    data = Data(
        format="yolo", root=root, train="images/train", val="images/val", names="obj.names", buckets=((64, 64),)
    )
    source = data.source("train")
    assert (source.name, source.classes, source.annotations(0).labels.tolist()) == ("yolo_train", NAMES, [0, 2])
    assert data.source("val", ("cow",)).annotations(0).labels.tolist() == [0]
    named = Data(format="yolo", root=root, train="images/train", classes=NAMES, labels=("labels/train", "", ""))
    assert named.source("train").annotations(0).ids == source.annotations(0).ids
    batch = next(data.training(source, batch_size=2, seed=0))
    assert batch.images.shape == (2, 64, 64, 3) and batch.instances.valid.sum() == 4


@pytest.mark.parametrize(("options", "fields", "message"), [
    ({}, (), "data.names and data.classes are both empty"),
    ({"names": "obj.names"}, ("masks",), "YOLO's text labels have no 'masks'"),
    ({"names": "obj.names"}, ("label_map",), "format 'yolo' has objects and no label maps"),
    ({"names": "obj.names", "images": ("a", "", "")}, (), "data.images means nothing to objects of the format 'yolo'"),
    ({"names": "obj.names", "train": "pictures"}, (), "image folder .*pictures"),
])  # fmt: skip
def test_a_recipe_that_cannot_be_is_one_sentence(root, options, fields, message):
    with pytest.raises(ValueError, match=message):
        Data(**{"format": "yolo", "root": root, "train": "images", **options}).source("train", fields=fields)


def test_names_mean_nothing_to_other_formats():
    for options in ({"names": "x"}, {"labels": ("x", "", "")}):
        with pytest.raises(ValueError, match=r"data\.\w+ means nothing to objects of the format 'voc'"):
            Data(format="voc", root=pathlib.Path("x"), **options).source("train")
