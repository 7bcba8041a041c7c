"""The reader of Leeds Sports Pose, on files in its two layouts, and what it says of each kind of fault."""

import pickle

import numpy as np
import pytest
import scipy.io
from PIL import Image

from configs.data import Data, Lsp
from segjax.data.inspection import inspect
from segjax.data.lsp import JOINTS, KEYPOINTS, LspSource
from segjax.data.source import DataError, Source

SIZE = (50, 40)
COUNT = 5


@pytest.fixture
def joints(rng):
    """[n, 14, 3]: whole numbers inside the images, and a flag."""
    at = rng.integers(1, 40, (COUNT, 14, 2)) * 1.0
    return np.concatenate([at, rng.integers(0, 2, (COUNT, 14, 1))], axis=2)


@pytest.fixture
def write(tmp_path, rng):
    (tmp_path / "images").mkdir()
    for number in range(1, COUNT + 1):
        pixels = np.full((*SIZE, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/im{number:04d}.jpg")

    def write(joints, extended=False):
        stored = np.transpose(joints, (1, 2, 0) if extended else (2, 1, 0))
        scipy.io.savemat(tmp_path / "joints.mat", {"joints": stored})
        return tmp_path

    return write


def read(root, first=1, last=COUNT, **options):
    return LspSource(root / "joints.mat", root / "images", first=first, last=last, **options)


def test_joints_have_the_datasets_order_and_sides():
    assert (
        len(JOINTS) == 14 and JOINTS[0] == "right_ankle" and JOINTS[9] == "left_shoulder" and JOINTS[-1] == "head_top"
    )
    assert KEYPOINTS.flip == (5, 4, 3, 2, 1, 0, 11, 10, 9, 8, 7, 6, 12, 13)
    for a, b in KEYPOINTS.skeleton:  # a bone does not cross the body, but at the hips
        sides = {JOINTS[i].split("_")[0] for i in (a, b)} & {"left", "right"}
        assert len(sides) < 2 or {JOINTS[a], JOINTS[b]} == {"left_hip", "right_hip"}


def test_reads_the_first_layout(write, joints):
    source = read(write(joints), 2, 4)
    assert (
        isinstance(source, Source) and len(source) == 3 and source.classes == ("person",) and not len(source.problems)
    )
    assert [source.info(i).image_id for i in range(3)] == ["im0002", "im0003", "im0004"]
    assert source.info(0)[2:] == SIZE and source.image(2).shape == (*SIZE, 3)
    np.testing.assert_allclose(source.image(1)[5, 5], 120, atol=3)
    for i in range(3):
        found, stated = source.annotations(i), joints[i + 1]
        np.testing.assert_array_equal(found.keypoints[0, :, :2], stated[:, :2])
        np.testing.assert_array_equal(found.keypoints[0, :, 2], 2 - stated[:, 2])  # 1 marks a hidden joint
        wanted = [*stated[:, :2].min(0), *stated[:, :2].max(0)]
        np.testing.assert_array_equal(found.boxes, [wanted])
        assert found.ids == (i + 2,) and found.labels.tolist() == [0]
        assert found.areas.tolist() == [(wanted[2] - wanted[0]) * (wanted[3] - wanted[1])]
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.annotations(1).boxes, source.annotations(1).boxes)


def test_reads_the_extended_layout(write, joints):
    """The other order of axes, five digits, and a flag that says that a joint can be seen."""
    root = write(joints, extended=True)
    for file in (root / "images").iterdir():
        file.rename(file.with_name(file.name.replace("im", "im0")))
    source = read(root, third="visible", name="lspet")
    assert len(source) == COUNT and source.info(0).image_id == "im00001" and source.name == "lspet"
    for i, stated in enumerate(joints):
        seen = stated[:, 2] == 1
        points = source.annotations(i).keypoints[0]
        np.testing.assert_array_equal(points, np.where(seen[:, None], [[*at, 2] for at in stated[:, :2]], 0))
        wanted = [*stated[seen, :2].min(0), *stated[seen, :2].max(0)]
        np.testing.assert_array_equal(source.annotations(i).boxes, [wanted])


@pytest.mark.parametrize(("place", "value", "kind", "words"), [
    ((0, 3, 0), np.nan, "non-finite joint", "x nan"),
    ((0, 3, 1), 51.5, "joint outside the image", "in 40x50 pixels"),
    ((0, 3, 0), -7.0, "joint outside the image", "x -7"),
    ((0, 3, 2), 2.0, "joint flag neither 0 nor 1", "flag 2"),
])  # fmt: skip
def test_faults_of_joints_are_named(write, joints, place, value, kind, words):
    joints[place] = value
    root = write(joints)
    source = read(root)
    (problem,) = source.problems
    assert (problem.kind, problem.image_id, problem.annotation_id) == (kind, "im0001", "left_hip")
    for part in (str(root / "joints.mat"), "image im0001", "'left_hip'", words):
        assert part in problem.detail
    assert source.annotations(0).keypoints[0, 3].tolist() == [0, 0, 0]
    assert (source.annotations(0).keypoints[0, :, 2] > 0).sum() == 13
    assert "taken to be not labelled" in inspect(source, buckets=((64, 64),), capacity=1, progress=False).text()


def test_rounding_is_no_fault(write, joints):
    joints[0, 3] = -0.75, 50.5, 0
    source = read(write(joints))
    assert not len(source.problems) and source.annotations(0).keypoints[0, 3].tolist() == [0, 50, 2]


def test_images_without_a_file_or_a_person(write, joints):
    joints[1, :, :2] = 12
    root = write(joints)
    (root / "images/im0003.jpg").unlink()
    (root / "images/im0004.jpg").write_bytes(b"no image")
    source = read(root)
    assert [source.info(i).image_id for i in range(len(source))] == ["im0001", "im0002", "im0005"]
    assert source.annotations(1).boxes.shape == (0, 4) and source.annotations(1).keypoints.shape == (0, 14, 3)
    assert source.annotations(2).ids == (5,)
    kinds = {problem.image_id: problem.kind for problem in source.problems}
    assert kinds == {"im0002": "zero-size box", "im0003": "missing image file", "im0004": "undecodable image"}


@pytest.mark.parametrize(("content", "message"), [
    ({"other": np.zeros(3)}, "has no variable 'joints'"),
    ({"joints": np.zeros((14, 4, 9))}, r"'joints' is 14 x 4 x 9 of float64; LSP's is 3 x 14 x N"),
    ({"joints": np.zeros((3, 14))}, r"'joints' is 3 x 14 of"),
    (b"MATLAB 7.3 MAT-file" + bytes(200), "is not a .mat file that SciPy reads"),
    (None, "The joints file .* cannot be read"),
])  # fmt: skip
def test_files_that_are_no_such(write, joints, content, message):
    root = write(joints)
    (root / "joints.mat").unlink()
    if isinstance(content, bytes):
        (root / "joints.mat").write_bytes(content)
    elif content is not None:
        scipy.io.savemat(root / "joints.mat", content)
    with pytest.raises(DataError, match=message):
        read(root)


def test_ranges_and_classes(write, joints):
    root = write(joints)
    for first, last in ((0, 3), (1, 6), (4, 3)):
        with pytest.raises(DataError, match=f"has the images 1 to 5, and {first} to {last} are asked for"):
            read(root, first, last)
    with pytest.raises(DataError, match=r"lsp has the one class 'person', and is to be read with \('cat',\)"):
        read(root, classes=("cat",))
    joints[..., :2] = 12
    with pytest.raises(DataError, match="Nothing in .* can be used: 5 x zero-size box"):
        read(write(joints))


def test_a_recipe_reads_it(write, joints):
    root = write(joints)
    (root / "images").rename(root / "pictures")
    (root / "joints.mat").rename(root / "j.mat")
    data = Data(format="lsp", root=root, train="1-3", val="4-5", lsp=Lsp("j.mat", "pictures", "visible"))
    train, val = (data.source(part, fields=("keypoints",)) for part in ("train", "val"))
    assert (len(train), len(val), val.info(0).image_id, val.name) == (3, 2, "im0004", "lsp_val")
    np.testing.assert_array_equal(train.annotations(0).keypoints[0, :, 2], 2 * joints[0, :, 2])
    batch = next(data.training(train, batch_size=2, seed=0, fields=("keypoints",)))
    assert batch.instances.keypoints.shape[-2:] == (14, 3)
    crops = Data(format="lsp", root=root, train="1-3", lsp=data.lsp, crops=1.2).source("train", fields=("keypoints",))
    assert crops.info(1).image_id == "im0002:2"


@pytest.mark.parametrize(("data", "fields", "message"), [
    (Data(format="lsp", train="train"), ("keypoints",), r"data\.train is 'train'; for lsp it is the first and last"),
    (Data(format="lsp", train="1-2"), ("masks",), "Leeds Sports Pose has joints and no 'masks'"),
    (Data(format="lsp", train="1-2", images=("a", "", "")), ("keypoints",), "data.images means nothing to objects"),
    (Data(format="coco", lsp=Lsp(third="visible")), ("keypoints",), "data.lsp.third means nothing to objects"),
])  # fmt: skip
def test_options_that_make_no_sense(write, joints, data, fields, message):
    with pytest.raises(ValueError, match=message):
        data.source("train", fields=fields)
