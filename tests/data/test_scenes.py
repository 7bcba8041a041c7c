"""The embedded data set: one set of pixels behind every annotation, the same files from the same seed."""

import collections
import concurrent.futures
import functools
import hashlib
import json
import pathlib

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from segjax.data import scene_objects, scenes
from segjax.data.coco import CocoSource

# pycocotools 2.0.11 decodes masks with an interface that NumPy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

COUNT, SEED = 30, 7
SMALL = scenes.Options(sizes=((64, 80), (80, 64)), max_objects=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished split that the tests only read."""
    folder = tmp_path_factory.mktemp("scenes") / "train"
    scenes.generate(folder, count=COUNT, seed=SEED, workers=2)
    return folder


@pytest.fixture(scope="module")
def coco(folder: pathlib.Path) -> COCO:
    return COCO(str(folder / "instances.json"))


def hashes(folder: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# Consistency of the files, as pycocotools reads them


def test_every_image_decodes_to_its_stated_size(folder: pathlib.Path, coco: COCO) -> None:
    assert len(coco.imgs) == COUNT
    shapes = set()
    for info in coco.imgs.values():
        image = cv2.imread(str(folder / "images" / info["file_name"]))
        assert image.shape == (info["height"], info["width"], 3)
        shapes.add(image.shape[:2])
    assert any(h < w for h, w in shapes) and any(h > w for h, w in shapes)


def test_box_and_area_are_those_of_the_mask(coco: COCO) -> None:
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert annotation["area"] == mask.sum() >= scenes.MIN_AREA
        assert annotation["iscrowd"] == 0


def test_semantic_map_is_the_union_of_the_masks(folder: pathlib.Path, coco: COCO) -> None:
    for image_id, info in coco.imgs.items():
        expected = np.zeros((info["height"], info["width"]), int)
        for annotation in coco.imgToAnns[image_id]:
            mask = coco.annToMask(annotation) > 0
            assert not expected[mask].any(), "two objects claim the same pixel"
            expected[mask] = annotation["category_id"]
        found = cv2.imread(str(folder / "semantic" / f"{image_id:06d}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(found, expected)


def test_categories_and_ids(coco: COCO) -> None:
    assert [(c["id"], c["name"]) for c in coco.loadCats(coco.getCatIds())] == list(enumerate(scenes.CLASSES, 1))
    assert min(coco.anns) == 1  # pycocotools takes a match with annotation 0 for no match
    assert {a["category_id"] for a in coco.anns.values()} == set(range(1, len(scenes.CLASSES) + 1))


def test_attributes_say_what_is_drawn(coco: COCO) -> None:
    for annotation in coco.anns.values():
        name, attributes = scenes.CLASSES[annotation["category_id"] - 1], annotation["attributes"]
        assert -180 <= attributes["angle"] <= 180
        assert 0 < attributes["visible"] <= 1
        assert ("digit" in attributes) == (name == "digit")
        assert attributes.get("digit", 0) in range(10)
        assert name != "digit" or attributes["visible"] >= 0.75
        assert ("facing" in attributes) == (name == "person")


def test_keypoints_belong_to_the_persons(folder: pathlib.Path, coco: COCO) -> None:
    persons = COCO(str(folder / "keypoints.json"))
    (category,) = persons.loadCats(persons.getCatIds())
    joints = len(category["keypoints"])
    assert category["name"] == "person" and len(category["sigmas"]) == joints
    assert {joint for bone in category["skeleton"] for joint in bone} == set(range(1, joints + 1))
    assert set(persons.anns) == {i for i, a in coco.anns.items() if a["category_id"] == category["id"]}
    seen = collections.Counter()
    for annotation_id, annotation in persons.anns.items():
        assert annotation["bbox"] == coco.anns[annotation_id]["bbox"]
        triples = np.array(annotation["keypoints"]).reshape(joints, 3)
        assert annotation["num_keypoints"] == np.count_nonzero(triples[:, 2])
        mask = persons.annToMask(annotation)
        for x, y, visibility in triples:
            seen[visibility] += 1
            if visibility == 0:
                assert x == y == 0
            else:
                assert mask[int(y), int(x)] == (visibility == 2)
    assert seen[2] > seen[1] + seen[0] and seen[0] and seen[1]


@pytest.mark.parametrize("file", ["instances", "keypoints"])
def test_the_reader_of_users_data_finds_no_fault(folder: pathlib.Path, coco: COCO, file: str) -> None:
    source = CocoSource(folder / f"{file}.json", folder / "images", keypoints=file == "keypoints")
    assert len(source) == COUNT and not list(source.problems)
    assert source.classes == (scenes.CLASSES if file == "instances" else ("person",))
    index = next(i for i in range(COUNT) if len(source.annotations(i).labels))
    annotations = source.annotations(index)
    x, y, width, height = coco.anns[annotations.ids[0]]["bbox"]
    np.testing.assert_array_equal(annotations.boxes[0], [x, y, x + width, y + height])
    assert source.image(index).shape[:2] == source.info(index)[2:]
    if file == "keypoints":
        assert source.keypoints.names == scene_objects.JOINTS and source.keypoints.skeleton == scene_objects.SKELETON
        assert source.keypoints.sigmas == (scenes.SIGMA,) * len(scene_objects.JOINTS)
        assert annotations.keypoints.shape == (len(annotations.labels), len(scene_objects.JOINTS), 3)
    found = [source.annotations(i) for i in range(len(source))]
    assert all(segmentation is not None for one in found for segmentation in one.segmentations)


# The drawing


def test_an_image_is_a_function_of_seed_and_index() -> None:
    first, again, other = scenes.scene(3, 5), scenes.scene(3, 5), scenes.scene(4, 5)
    np.testing.assert_array_equal(first.image, again.image)
    assert first.image.shape != other.image.shape or (first.image != other.image).any()


def test_objects_stand_out_from_what_is_around_them() -> None:
    """Mean colour inside each mask against the ring of pixels around it: nearly always a clear difference."""
    differences = []
    for index in range(20):
        drawn = scenes.scene(11, index)
        for i in range(len(drawn.objects)):
            mask = (drawn.owner == i).astype(np.uint8)
            around = cv2.dilate(mask, np.ones((7, 7), np.uint8)) - mask
            lab = cv2.cvtColor(drawn.image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
            differences.append(np.linalg.norm(lab[mask > 0].mean(0) - lab[around > 0].mean(0)))
    assert np.mean(np.array(differences) > 15) > 0.95


def test_enough_of_every_object_is_visible() -> None:
    options = scenes.Options(min_visible=0.6, overlap=1.0)
    drawn = [scenes.scene(1, index, options) for index in range(15)]
    visible = [a["attributes"]["visible"] for one in drawn for a in scenes.annotate(one)]
    assert 0.6 <= min(visible) < 0.95


def test_options_change_the_picture() -> None:
    def annotations(**options) -> list[list[dict]]:
        return [scenes.annotate(scenes.scene(2, index, scenes.Options(**options))) for index in range(12)]

    assert all(len(found) == 0 for found in annotations(empty=1.0))
    assert all(len(found) <= 2 for found in annotations(max_objects=2))
    apart = annotations(overlap=0.0, truncation=0.0, diameters=(20.0, 60.0))  # all fit inside the picture
    assert all(a["attributes"]["visible"] == 1 for found in apart for a in found)
    sizes = [max(a["bbox"][2:]) for found in annotations(diameters=(14.0, 20.0), truncation=0.0) for a in found]
    assert max(sizes) < 50  # a person begins at twice the smallest diameter, its arms reach further
    assert scenes.scene(2, 0, scenes.Options(sizes=((40, 48),))).image.shape == (40, 48, 3)
    fills = [{a["attributes"]["fill"] for found in annotations(textured=t) for a in found} for t in (0.0, 1.0)]
    assert fills[0] == {"plain"} and {"gradient", "stripes", "checker"} <= fills[1]


@pytest.mark.parametrize("front", [True, False])
def test_left_and_right_follow_from_where_the_figure_faces(front: bool, rng: np.random.Generator) -> None:
    """So that a mirrored figure with its joint names exchanged is one that could have been drawn."""
    for _ in range(10):
        at = dict(zip(scene_objects.JOINTS, scene_objects._pose(rng, front)))
        assert (at["left_hip"][0] > at["right_hip"][0]) == front
        assert (at["left_shoulder"][0] > at["right_shoulder"][0]) == front
        assert at["head"][1] < at["neck"][1] < at["left_hip"][1]


@pytest.mark.parametrize("name", scenes.CLASSES)
def test_a_sketch_has_the_asked_size(name: str, rng: np.random.Generator) -> None:
    for diameter in (16.0, 60.0):
        alpha = scene_objects.coverage(scene_objects.sketch(name, rng, diameter=diameter).shares)
        _, _, width, height = cv2.boundingRect((alpha >= 0.5).astype(np.uint8))
        assert 0.5 * diameter < max(width, height) < 1.5 * diameter
        assert alpha.min() >= 0 and alpha.max() == pytest.approx(1, abs=0.01)


def test_paint_mixes_palettes_by_the_field() -> None:
    shares = np.zeros((1, 2, scene_objects.PARTS), np.float32)
    shares[0, :, scene_objects.BODY] = 1.0, 0.5
    palettes = np.zeros((2, scene_objects.PARTS, 3), np.float32)
    palettes[0, scene_objects.BODY], palettes[1, scene_objects.BODY] = (1, 0, 0), (0, 1, 0)
    colours = scene_objects.paint(shares, palettes, np.array([[0.0, 1.0]], np.float32))
    np.testing.assert_allclose(colours[0], [(1, 0, 0), (0, 0.5, 0)])


# Files that are the same for the same settings, and whole


def test_files_do_not_depend_on_the_number_of_workers(tmp_path: pathlib.Path) -> None:
    for workers in (1, 2):
        scenes.generate(tmp_path / str(workers), count=6, seed=1, options=SMALL, workers=workers)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")
    assert len(hashes(tmp_path / "1")) == 6 * 2 + 3


def test_ensure_draws_only_what_is_missing_or_different(tmp_path: pathlib.Path, monkeypatch) -> None:
    drawn: list[str] = []
    generate = scenes.generate
    monkeypatch.setattr(scenes, "generate", lambda folder, **kw: (drawn.append(folder.name), generate(folder, **kw)))
    splits = {"train": scenes.Split(3, 1), "val": scenes.Split(2, 2)}
    paths = scenes.ensure(tmp_path, splits=splits, options=SMALL)
    assert paths == {"train": tmp_path / "train", "val": tmp_path / "val"} and drawn == ["train", "val"]
    scenes.ensure(tmp_path, splits=splits, options=SMALL)
    assert drawn == ["train", "val"]
    scenes.ensure(tmp_path, splits=splits | {"val": scenes.Split(4, 2)}, options=SMALL)
    assert drawn[2:] == ["val"] and len(list((tmp_path / "val" / "images").iterdir())) == 4
    monkeypatch.setattr(scenes, "VERSION", scenes.VERSION + 1)
    scenes.ensure(tmp_path, splits={"train": splits["train"]}, options=SMALL)
    assert drawn[3:] == ["train"]


def test_an_interrupted_generation_is_done_again(tmp_path: pathlib.Path, monkeypatch) -> None:
    splits = {"train": scenes.Split(5, 1)}
    with monkeypatch.context() as patch:
        patch.setattr(scenes, "annotate", lambda drawn: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scenes.ensure(tmp_path, splits=splits, options=SMALL)
    assert not (tmp_path / "train").exists()
    folder = scenes.ensure(tmp_path, splits=splits, options=SMALL)["train"]
    scenes.generate(tmp_path / "whole", count=5, seed=1, options=SMALL)
    assert hashes(folder) == hashes(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "train", "whole"]


def test_two_that_ask_at_once_draw_once(tmp_path: pathlib.Path, monkeypatch) -> None:
    drawn: list[str] = []
    generate = scenes.generate
    monkeypatch.setattr(scenes, "generate", lambda folder, **kw: (drawn.append(folder.name), generate(folder, **kw)))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        ask = functools.partial(scenes.ensure, tmp_path, splits={"val": scenes.Split(8, 1)}, options=SMALL)
        first, second = (pool.submit(ask) for _ in range(2))
        assert first.result() == second.result()
    assert drawn == ["val"]


@pytest.mark.parametrize("content", [None, "", "{}", "{"])
def test_a_folder_without_its_last_file_is_not_complete(tmp_path: pathlib.Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "scenes.json").write_text(content)
    assert not scenes.is_complete(tmp_path, count=1, seed=1)


def test_settings_are_written(folder: pathlib.Path) -> None:
    settings = json.loads((folder / "scenes.json").read_text())
    assert (settings["count"], settings["seed"], settings["version"]) == (COUNT, SEED, scenes.VERSION)
    assert scenes.is_complete(folder, count=COUNT, seed=SEED)
    assert not scenes.is_complete(folder, count=COUNT, seed=SEED + 1)


@pytest.mark.parametrize(
    "options",
    [{"sizes": ()}, {"sizes": ((16, 64),)}, {"max_objects": 0}, {"diameters": (30.0, 20.0)}, {"overlap": 1.5}],
)
def test_bad_options_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        scenes.Options(**options)


@pytest.mark.parametrize("bad", [{"count": 0}, {"seed": -1}, {"workers": 0}])
def test_bad_arguments_are_named(bad: dict, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))}={next(iter(bad.values()))}"):
        scenes.generate(tmp_path, **({"count": 1, "seed": 1} | bad))
