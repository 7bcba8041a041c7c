"""The Pascal VOC reader, and what it says of each kind of fault."""

import pickle

import numpy as np
import pytest
from PIL import Image

from segjax.data.source import DataError
from segjax.data.voc import VOC_CLASSES, VocSource


def thing(name="cat", box=(11, 6, 20, 15), extra="", difficult=0):
    corners = "".join(f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name>{extra}<difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def xml(*objects, size="<size><width>60</width><height>40</height><depth>3</depth></size>", filename="x.jpg"):
    return f"<annotation><filename>{filename}</filename>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def root(tmp_path):
    """Images a, b, c of 60x40 pixels; a and b in train, c in val."""
    root = tmp_path / "set"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for stem in "abc":
        Image.new("RGB", (60, 40), (200, 100, 50)).save(root / "JPEGImages" / f"{stem}.jpg")
    annotate(root, "a", thing(), thing("dog", (1, 1, 60, 40), difficult=1))
    annotate(root, "b")
    annotate(root, "c", thing("person"))
    (root / "ImageSets/Main/train.txt").write_text("a\nb\n")
    (root / "ImageSets/Main/val.txt").write_text("c\n")
    return root


def annotate(root, stem, *objects, **options):
    (root / "Annotations" / f"{stem}.xml").write_text(xml(*objects, **options))


def split(root, *lines, name="train"):
    (root / "ImageSets/Main" / f"{name}.txt").write_text("\n".join(lines))


def only_fault(source, kind, image_id, annotation_id=None):
    """The single fault of a source, checked for naming what it is about."""
    (problem,) = source.problems
    assert (problem.kind, problem.image_id, problem.annotation_id) == (kind, image_id, annotation_id)
    assert f"image {image_id}" in problem.detail
    assert annotation_id is None or f"annotation {annotation_id}" in problem.detail
    return problem


def test_reads_a_split(root):
    source = VocSource(root, split="train")
    assert (len(source), source.name, len(source.problems), source.keypoints) == (2, "set_train", 0, None)
    info, found = source.info(0), source.annotations(0)
    assert info == ("a", str(root / "JPEGImages" / "a.jpg"), 40, 60)
    # The first pixel is 1 and the last one belongs to the box: 11 to 20 are the ten pixels from 10 to 20.
    assert found.boxes.tolist() == [[10, 5, 20, 15], [0, 0, 60, 40]] and found.areas.tolist() == [100, 2400]
    assert [source.classes[i] for i in found.labels] == ["cat", "dog"]
    assert found.difficult.tolist() == [False, True] and not found.crowd.any()
    assert found.ids == ("a#0", "a#1") and found.segmentations == (None, None)
    assert source.annotations(1).boxes.shape == (0, 4)
    np.testing.assert_allclose(source.image(0)[5, 5], [200, 100, 50], atol=3)


def test_zero_based_coordinates_are_taken_as_they_are(root):
    source = VocSource(root, split="train", one_based=False)
    assert source.annotations(0).boxes.tolist() == [[11, 6, 20, 15], [1, 1, 60, 40]]


def test_a_source_survives_pickling(root):
    source = VocSource(root, split="train")
    again = pickle.loads(pickle.dumps(source))
    assert again.info(1) == source.info(1) and again.annotations(0).ids == source.annotations(0).ids


# Classes.


def test_the_twenty_classes_where_the_data_has_no_other(root):
    assert VocSource(root, split="train").classes == VOC_CLASSES
    assert len(set(VOC_CLASSES)) == 20 and sorted(VOC_CLASSES) == list(VOC_CLASSES)


def test_other_classes_are_sorted_over_all_splits(root):
    annotate(root, "c", thing("zebra"), thing("ant"))
    assert VocSource(root, split="train").classes == ("ant", "cat", "dog", "zebra")
    assert VocSource(root, split="val").classes == ("ant", "cat", "dog", "zebra")


def test_a_given_class_map_leaves_out_other_names(root):
    annotate(root, "a", thing("cow"), thing(), thing("cow"))
    source = VocSource(root, split="train", classes=("dog", "cat"))
    assert source.annotations(0).labels.tolist() == [1] and source.annotations(0).ids == ("a#1",)
    problem = only_fault(source, "unknown category", "a", "a#0")
    assert "first of 2 named 'cow'" in problem.detail and problem.action == "skipped"


def test_parts_are_not_objects(root):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></part>"
    annotate(root, "a", thing("person", (11, 6, 20, 15), extra=part))
    source = VocSource(root, split="train")
    assert source.classes == VOC_CLASSES and source.annotations(0).boxes.tolist() == [[10, 5, 20, 15]]


# Boxes.


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((30, 20, 30, 20), "zero-size box"),
        ((30, 20, 30, 25), "zero-size box"),
        ((0, 0, 0, 0), "zero-size box"),
        ((30, 20, 20, 25), "inverted box"),
        ((62, 10, 70, 20), "box outside the image"),
        ((-9, 10, 0, 20), "box outside the image"),
        (("nan", 10, 20, 20), "malformed or non-finite box"),
        ((1, 10, "inf", 20), "malformed or non-finite box"),
        ((1, 10, "1e999", 20), "malformed or non-finite box"),
        ((1, 10, "wide", 20), "malformed or non-finite box"),
        ((1, 10, "", 20), "malformed or non-finite box"),
        ((1, 10, 20), "malformed or non-finite box"),
        ((), "malformed or non-finite box"),
    ],
)
@pytest.mark.parametrize("one_based", [True, False])
def test_unusable_boxes_are_skipped(root, box, kind, one_based):
    annotate(root, "a", thing(), thing(box=box))
    source = VocSource(root, split="train", one_based=one_based)
    assert only_fault(source, kind, "a", "a#1").action == "skipped"
    assert source.annotations(0).ids == ("a#0",)


def test_boxes_partly_outside_are_clipped_and_reported(root):
    annotate(root, "a", thing(box=(51, 31, 70, 45)))
    source = VocSource(root, split="train")
    problem = only_fault(source, "box partly outside the image", "a", "a#0")
    assert problem.action == "clipped" and "[51, 31, 70, 45] in 60x40 pixels" in problem.detail
    assert source.annotations(0).boxes.tolist() == [[50, 30, 60, 40]]


def test_counting_from_zero_in_a_one_based_set_is_no_fault(root):
    annotate(root, "a", thing(box=(0, 0, 60, 40)))
    source = VocSource(root, split="train")
    assert len(source.problems) == 0 and source.annotations(0).boxes.tolist() == [[0, 0, 60, 40]]


def test_fractions_are_kept(root):
    annotate(root, "a", thing(box=("11.5", "6.25", " 20.75\n", "1.5e1")))
    assert VocSource(root, split="train").annotations(0).boxes.tolist() == [[10.5, 5.25, 20.75, 15]]


# Splits.


@pytest.mark.parametrize("lines", [("a  1", "b -1", "c  0"), ("a\t1", " b", "c "), ("a", "", "b", "c", "")])
def test_lines_with_flags_name_every_image(root, lines):
    split(root, *lines, name="cat_train")
    source = VocSource(root, split="cat_train")
    assert [source.info(i).image_id for i in range(len(source))] == ["a", "b", "c"]


def test_stems_may_hold_spaces(root):
    for old, new in (("a", "frame 1"), ("b", "my frame")):
        (root / "JPEGImages" / f"{old}.jpg").rename(root / "JPEGImages" / f"{new}.jpg")
        (root / "Annotations" / f"{old}.xml").rename(root / "Annotations" / f"{new}.xml")
    split(root, "frame 1", "my frame 1")
    source = VocSource(root, split="train")
    assert [source.info(i).image_id for i in range(2)] == ["frame 1", "my frame"]


def test_a_repeated_stem_is_reported(root):
    split(root, "a", "b", "a")
    assert len(VocSource(root, split="train")) == 2
    only_fault(VocSource(root, split="train"), "duplicate image id", "a")


def test_a_missing_split_lists_those_there_are(root):
    with pytest.raises(DataError, match=r"Split 'test' .*Main.*there are: train, val"):
        VocSource(root, split="test")


# Files.


@pytest.mark.parametrize("suffix", [".png", ".jpeg", ".JPG", ".bmp"])
def test_other_image_suffixes_are_found(root, suffix):
    (root / "JPEGImages" / "a.jpg").unlink()
    Image.new("RGB", (60, 40)).save(root / "JPEGImages" / f"a{suffix}")
    assert VocSource(root, split="train").image(0).shape == (40, 60, 3)


def test_the_stated_file_name_is_used_where_the_stem_has_no_image(root):
    (root / "JPEGImages" / "a.jpg").rename(root / "JPEGImages" / "other.jpg")
    annotate(root, "a", thing(), filename="other.jpg")
    assert VocSource(root, split="train").info(0)[:2] == ("a", str(root / "JPEGImages" / "other.jpg"))


@pytest.mark.parametrize(("folder", "kind"), [("JPEGImages", "image"), ("Annotations", "annotation")])
def test_a_missing_file_skips_its_image(root, folder, kind):
    split(root, "a", "b", "c")
    (file,) = (root / folder).glob("b.*")
    file.unlink()
    source = VocSource(root, split="train")
    problem = only_fault(source, f"missing {kind} file", "b")
    assert file.name in problem.detail and problem.action == "image skipped"
    assert [source.info(i).image_id for i in range(2)] == ["a", "c"]
    assert source.annotations(1).ids == ("c#0",)


@pytest.mark.parametrize("stem", ["../../secret", "/etc/passwd", "link"])
def test_a_stem_outside_the_folder_is_never_opened(root, stem):
    (root.parent / "secret.xml").write_text(xml(thing("secret")))
    (root / "Annotations" / "link.xml").symlink_to(root.parent / "secret.xml")
    split(root, "a", stem)
    source = VocSource(root, split="train")
    only_fault(source, "file outside the data folder", stem)
    assert source.classes == VOC_CLASSES


def test_a_stated_file_name_outside_the_folder_is_never_opened(root):
    (root / "JPEGImages" / "b.jpg").rename(root.parent / "b.jpg")
    annotate(root, "b", filename="../../b.jpg")
    source = VocSource(root, split="train")
    assert "'../../b.jpg' leads out" in only_fault(source, "file outside the data folder", "b").detail


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width><height>40</height></size>"])
@pytest.mark.parametrize("width", [None, "inf", "nan", "10e10", "x", "60.5"])
def test_a_size_that_cannot_be_is_read_from_the_file(root, size, width):
    if width is not None:
        size = f"<size><width>{width}</width><height>40</height></size>"
    annotate(root, "a", thing(), size=size)
    source = VocSource(root, split="train")
    assert only_fault(source, "image without a usable size", "a").action == "size read from the file"
    assert source.info(0)[2:] == (40, 60)


def test_another_size_than_stated_stops_decoding(root):
    annotate(root, "a", thing(), size="<size><width>40</width><height>60</height></size>")
    with pytest.raises(DataError, match=r"a\.jpg.*image a.*60x40.*state 40x60"):
        VocSource(root, split="train").image(0)


@pytest.mark.parametrize(
    "content", ["", "<annotation>", "no xml", "<a><b></a>", '<?xml version="1.0" encoding="x"?><a/>']
)
def test_xml_that_does_not_parse_is_named(root, content):
    (root / "Annotations" / "b.xml").write_text(content)
    with pytest.raises(DataError, match=r"b\.xml.*not XML that can be parsed") as caught:
        VocSource(root, split="train")
    assert "\n" not in str(caught.value)


def test_an_object_without_a_name_is_named(root):
    annotate(root, "a", "<object><bndbox/></object>")
    with pytest.raises(DataError, match=r"a\.xml.*<object> without <name>"):
        VocSource(root, split="train")


@pytest.mark.parametrize("folder", ["JPEGImages", "Annotations"])
def test_a_missing_folder_is_named(root, folder):
    (root / folder).rename(root / "elsewhere")
    with pytest.raises(DataError, match=f"folder .*{folder}"):
        VocSource(root, split="train")


@pytest.mark.parametrize(
    ("lines", "objects", "message"),
    [
        (("gone",), (thing(),), r"none of its images can be used \(1 x missing annotation file"),
        ((), (thing(),), r"none of its images can be used\."),
        (("a",), (thing(box=(3, 3, 3, 3)),), r"none of its 1 objects can be used \(1 x zero-size box"),
        (("a",), (), r"none of its 0 objects can be used\."),
    ],
)
def test_nothing_usable_stops_with_one_sentence(root, lines, objects, message):
    annotate(root, "a", *objects)
    split(root, *lines)
    with pytest.raises(DataError, match=f"split 'train' of .*set.*{message}") as caught:
        VocSource(root, split="train")
    assert "\n" not in str(caught.value)
