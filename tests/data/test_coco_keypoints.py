"""Joints and keypoints of COCO JSON: names, sigmas, skeleton, and what is said of malformed ones."""

import copy

import numpy as np
import pytest
from pycocotools.cocoeval import Params

from segjax.data.joints import COCO_SIGMAS, flip_pairs
from segjax.data.source import DataError
from tests.data.coco_files import annotation, only_fault


@pytest.fixture
def people(data):
    """The data with joints on category 3 and two people in image 7, of whom one has keypoints."""
    names = list(COCO_SIGMAS)
    data["categories"][1].update(keypoints=names, skeleton=[[16, 14], [1, 2]])
    points = np.column_stack([np.arange(17), np.arange(17) + 0.5, np.arange(17) % 3]).ravel().tolist()
    data["annotations"].append(annotation(60, 7, 3, keypoints=points, num_keypoints=11))
    return data


def test_keypoints_are_read(read, people):
    source = read(people, keypoints=True)
    joints, found = source.keypoints, source.annotations(0)
    assert joints.names[:3] == ("nose", "left_eye", "right_eye") and joints.skeleton == ((15, 13), (0, 1))
    assert found.keypoints.shape == (4, 17, 3) and not found.keypoints[:3].any()
    np.testing.assert_array_equal(found.keypoints[3].ravel(), people["annotations"][-1]["keypoints"])
    np.testing.assert_allclose(joints.sigmas, Params("keypoints").kpt_oks_sigmas)
    assert source.annotations(2).keypoints.shape == (0, 17, 3)


def test_keypoints_are_left_unless_asked_for(read, people):
    source = read(people)
    assert source.keypoints is None and source.annotations(0).keypoints is None


def test_other_joints_have_no_sigmas(read, people):
    people["categories"][1].update(keypoints=["head", "left_hand", "right_hand", "left_ear"], skeleton=[])
    people["annotations"][-1]["keypoints"] = [1, 2, 2] * 4
    joints = read(people, keypoints=True).keypoints
    assert joints.sigmas is None and joints.flip == (0, 2, 1, 3)


def test_flip_pairs_is_an_involution_that_swaps_sides():
    names = tuple(COCO_SIGMAS)
    flip = flip_pairs(names)
    assert [flip[i] for i in flip] == list(range(17)) and flip[0] == 0
    assert all(names[i].replace("left", "right") == names[j] for i, j in enumerate(flip) if "left" in names[i])


@pytest.mark.parametrize(
    "points", [[1, 2, 2], [1, 2, 3] * 17, [1, float("nan"), 2] * 17, [1, 2, None] * 17, "none"], ids=range(5)
)
def test_malformed_keypoints_are_dropped(read, people, points):
    people["annotations"].append(annotation(61, 5, keypoints=points))
    source = read(people, keypoints=True)
    assert only_fault(source, "malformed keypoints", 5, 61).action == "keypoints dropped, box kept"
    assert source.annotations(2).ids == (61,) and not source.annotations(2).keypoints.any()


def test_keypoints_need_one_list_of_joints(read, data, people):
    two = copy.deepcopy(people)
    two["categories"][0]["keypoints"] = ["tail"]
    with pytest.raises(DataError, match="2 lists of joints"):
        read(two, keypoints=True)
    del people["categories"][1]["keypoints"]
    with pytest.raises(DataError, match=r"0 lists of joints.*keypoints=False"):
        read(people, keypoints=True)


@pytest.mark.parametrize("skeleton", [[1, 2], [[1, 2, 3]], [["a", "b"]], [[1, 18]], [[0, 1]], 5])
def test_a_malformed_skeleton_is_named(read, people, skeleton):
    people["categories"][1]["skeleton"] = skeleton
    with pytest.raises(DataError, match=r"instances\.json.*'skeleton'.*not lists"):
        read(people, keypoints=True)


def test_stated_sigmas_are_read(read, people):
    stated = [0.05 + 0.01 * i for i in range(17)]
    people["categories"][1]["sigmas"] = stated
    assert read(people, keypoints=True).keypoints.sigmas == tuple(stated)


@pytest.mark.parametrize(
    "sigmas", [[0.1] * 16, [0.1] * 16 + [0.0], [0.1] * 16 + [-1], [0.1] * 16 + ["a"], [float("nan")] * 17, 0.1, {}]
)
def test_malformed_sigmas_are_named(read, people, sigmas):
    people["categories"][1]["sigmas"] = sigmas
    with pytest.raises(DataError, match=r"instances\.json.*'sigmas'.*positive numbers"):
        read(people, keypoints=True)


def test_objects_without_labelled_joints_are_kept(read, people):
    people["annotations"].append(annotation(61, 5, keypoints=[0] * 51, num_keypoints=0))
    source = read(people, keypoints=True)
    assert source.annotations(2).ids == (61,) and len(source.problems) == 0
    assert not source.annotations(2).keypoints.any()
