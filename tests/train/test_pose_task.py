"""A model of poses in the trainer's hands: how it is scored, reported and shown, without any training."""

import dataclasses

import cv2
import numpy as np
import pytest

from configs.pose import DeepPose
from segjax.data.crops import CropSource
from segjax.data.source import KeypointNames, Vocabulary
from segjax.models.pose import CERTAIN
from segjax.types import Detections
from tests.evaluation.listed import ListedSource, objects
from train.detection import DetectionPredictions, DetectionTask

NAMES = ("head", "left_shoulder", "right_hip")
SIZE = (90, 120)


@pytest.fixture
def crops(rng):
    """Two persons in each of three images, cropped."""
    listed = []
    for i in range(3):
        low = rng.uniform(5, 40, (2, 2))
        boxes = np.concatenate([low, low + rng.uniform(20, 40, (2, 2))], axis=1)
        at = boxes[:, None, :2] + rng.random((2, 3, 2)) * (boxes[:, 2:] - boxes[:, :2])[:, None]
        points = np.concatenate([at, np.full((2, 3, 1), 2)], axis=-1).astype(np.float32)
        listed.append(dataclasses.replace(objects(boxes, [0, 0], first_id=2 * i + 1), keypoints=points))
    source = ListedSource(listed, classes=("person",), size=SIZE)
    source.keypoints = KeypointNames(NAMES, ((0, 1), (1, 2)), (0, 1, 2), (0.07,) * 3)
    return CropSource(source, factor=1.3)


def found(crops, sample, *, side, off=0.0):
    """The true pose of a crop that was resized to `side` x `side`, moved by `off` pixels of the crop."""
    truth, info = crops.annotations(sample), crops.info(sample)
    scale = np.array([side / info.width, side / info.height], np.float32)
    points = truth.keypoints[None].copy()
    points[..., :2] = (points[..., :2] + off) * scale
    points[..., 2] = CERTAIN
    box, one = (truth.boxes * np.tile(scale, 2))[None].astype(np.float32), np.ones((1, 1), np.float32)
    return Detections(box, one, np.zeros((1, 1), np.int32), one > 0, keypoints=points)


def test_scores_table_and_report(crops, tmp_path):
    """All but the last pose are exact: COCO's OKS and shares of joints in the pixels of the file, no score of boxes."""
    model = DeepPose()
    task = DetectionTask(model, crops, Vocabulary(crops.classes, crops.keypoints))
    for sample in range(len(crops)):
        off = 200.0 if sample == 5 else 0.0
        for evaluator in task.evaluators:
            evaluator.update(np.array([sample]), np.array([[64, 64]]), found(crops, sample, side=64, off=off))
    results = {name: value for evaluator in task.evaluators for name, value in evaluator.compute().items()}
    assert results["PDJ@0.2"] == results["PDJ@0.5/head"] == pytest.approx(5 / 6)
    assert results["mean_OKS"] == pytest.approx(5 / 6, abs=1e-3) and 0.5 < results["keypoint_AP"] < 1
    assert not {"AP", "VOC_AP"} & set(results)
    assert task.headline(results).startswith("keypoint AP 0.")
    assert "PDJ@0.2/left_shoulder" in task.table(results)
    page = task.report(tmp_path, results, {}).read_text()
    assert "PDJ@0.2/right_hip" in page and "VOC AP" not in page
    (file,) = task.save(tmp_path, "val")
    assert '"image_id": "3:6"' in file.read_text()


def test_predictions_are_drawn_with_their_joints(crops, tmp_path):
    shown = DetectionPredictions(crops, Vocabulary(crops.classes, crops.keypoints), tmp_path)
    shown.update(np.array([1]), np.array([[64, 64]]), found(crops, 1, side=64))
    assert shown.write().startswith("1 images, 1 detections")
    picture = cv2.imread(str(next(tmp_path.glob("*.png"))))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 5  # the crop is of one grey; joints have colours
