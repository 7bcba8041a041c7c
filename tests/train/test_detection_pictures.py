"""What is drawn of detections and of ground truth: masks where they are, sure joints only, values in words."""

import dataclasses

import numpy as np
import pytest

from segjax.evaluation.evaluator import CollectedDetections
from segjax.evaluation.mask_results import encode_window
from segjax.visualize import draw_objects
from tests.evaluation.listed import objects
from tests.evaluation.posed import JOINTS
from train.detection_pictures import draw_found, draw_truth, notes_of, shown_joints

GREY = np.full((448, 448, 3), 100, np.uint8)
BOX = np.asarray([[100, 100, 300, 300]], np.float32)
CLASSES = ("ant", "bee")
POSE = np.asarray([[[150, 150, 9], [250, 150, 2], [150, 250, 1.9], [250, 250, -3]]], np.float32)


def found(**changes) -> CollectedDetections:
    plain = CollectedDetections(np.zeros(1, np.int32), BOX, np.asarray([0.9], np.float32), np.zeros(1, np.int32))
    return dataclasses.replace(plain, **changes)


def runs() -> dict:
    return encode_window(np.ones((100, 200), bool), 100, 100, height=448, width=448)


def test_boxes_alone_are_drawn_as_they_were():
    expected = draw_objects(GREY, BOX, np.zeros(1, int), np.asarray([0.9], np.float32), classes=CLASSES)
    np.testing.assert_array_equal(draw_found(GREY, found(), classes=CLASSES), expected)


def test_masks_are_drawn_where_they_are():
    masks = np.empty(1, object)
    masks[0] = runs()
    drawn = draw_found(GREY, found(masks=masks), classes=CLASSES)
    truth = dataclasses.replace(objects(BOX, [0]), segmentations=(runs(),))
    for picture in (drawn, draw_truth(GREY, truth, classes=CLASSES)):
        different = (picture != 100).any(-1)
        assert different[130:198, 110:290].all() and not different[204:296, 104:296].any()
    plain = draw_truth(GREY, truth, classes=CLASSES, like=found())
    assert not (plain != 100).any(-1)[130:296, 104:296].any()


def test_only_joints_that_are_sure_are_drawn():
    """Two joints reach the threshold: they and the bone between them are drawn, no other."""
    np.testing.assert_array_equal(shown_joints(POSE)[0, :, 2], [2, 2, 0, 0])
    np.testing.assert_array_equal(shown_joints(POSE)[..., :2], POSE[..., :2])
    drawn = (draw_found(GREY, found(keypoints=POSE), classes=CLASSES, keypoints=JOINTS) != 100).any(-1)
    assert drawn[150, 150:250].all() and not drawn[160:296, 110:290].any()
    boneless = (draw_found(GREY, found(keypoints=POSE), classes=CLASSES) != 100).any(-1)
    assert boneless[150, 150] and boneless[150, 250] and not boneless[150, 170:230].any()


def test_poses_of_the_truth_are_drawn_by_their_visibility():
    pose = POSE.copy()
    pose[..., 2] = [[2, 0, 1, 2]]
    truth = dataclasses.replace(objects(BOX, [0]), keypoints=pose)
    drawn = (draw_truth(GREY, truth, classes=CLASSES, keypoints=JOINTS) != 100).any(-1)
    assert drawn[150:250, 150].all() and drawn[250, 150:250].all() and not drawn[150, 170:296].any()
    assert not (draw_truth(GREY, truth, classes=CLASSES, keypoints=JOINTS, like=found()) != 100).any(-1)[150, 150]


def test_values_in_words():
    values = {
        "angle": np.asarray([31.24, np.nan], np.float32),
        "depth": np.asarray([[4.0], [1234.5]], np.float32),
        "colour": np.zeros((2, 3), np.float32),
    }
    assert notes_of(values, 2) == ["angle=31.2 depth=4", "depth=1.23e+03"]
    assert notes_of({}, 2) == ["", ""] and notes_of({"angle": np.zeros(0, np.float32)}, 0) == []


@pytest.mark.parametrize("name", ["angle", "size"])
def test_the_truth_shows_the_attributes_that_are_predicted(name):
    truth = dataclasses.replace(objects(BOX, [0]), attributes={"angle": np.asarray([31.0], np.float32)})
    like = found(extra={name: np.asarray([30.0], np.float32)})
    expected = draw_objects(GREY, BOX, np.zeros(1, int), classes=CLASSES, notes=["angle=31" if name == "angle" else ""])
    np.testing.assert_array_equal(draw_truth(GREY, truth, classes=CLASSES, like=like), expected)
