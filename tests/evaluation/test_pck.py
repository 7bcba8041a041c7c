"""Shares of correct joints against plain loops, and the mean OKS against pycocotools."""

import dataclasses
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segjax.data.source import KeypointNames
from segjax.evaluation.evaluator import DetectionCollector
from segjax.evaluation.pck import correct_joints, has_length, mean_oks, pose_errors, pose_scores
from segjax.types import Detections
from tests.evaluation.listed import ListedSource, objects

NAMES = ("head_top", "neck", "left_shoulder", "right_shoulder", "left_hip", "right_hip", "left_wrist")
SIGMAS = (0.03, 0.05, 0.07, 0.08, 0.1, 0.1, 0.06)
SIZE = (120, 100)


def pose_source(rng, *, images=20, names=NAMES, sigmas=SIGMAS):
    """A person in most images; a fifth of the joints is not labelled, of the first person none but the wrist is not."""
    listed = []
    for i in range(images):
        low = rng.uniform(0, 40, (1, 2))
        box = np.concatenate([low, low + rng.uniform(20, 55, (1, 2))], axis=1)
        truth = objects(box[: i % 7 != 6], [0] * (i % 7 != 6), areas=[rng.uniform(200, 900)] * (i % 7 != 6))
        at = box[0, :2] + rng.random((len(truth.labels), len(names), 2)) * (box[0, 2:] - box[0, :2])
        seen = rng.integers(1, 3, (*at.shape[:2], 1)) * (rng.random((*at.shape[:2], 1)) < 0.8)
        seen[..., -1, :] = 2
        points = np.concatenate([at * (seen > 0), seen], axis=-1).astype(np.float32)
        listed.append(dataclasses.replace(truth, keypoints=points))
    source = ListedSource(listed, classes=("person",), size=SIZE)
    source.keypoints = KeypointNames(names, (), tuple(range(len(names))), sigmas)
    return source


def collected(rng, source, *, noise=8.0, missing=(), doubled=False):
    """A collector fed with disturbed poses: none for `missing` images; doubled: a worse one of lower score first."""
    collector = DetectionCollector(source, classes=source.classes)
    joints = len(source.keypoints.names)
    for sample in range(len(source)):
        truth = source.annotations(sample)
        points = rng.uniform(0, 90, (1, 2, joints, 3)).astype(np.float32)
        if len(truth.labels):
            points[0, 1, :, :2] = truth.keypoints[0, :, :2] + rng.normal(0, noise, (joints, 2))
        valid = np.array([[doubled, True]]) & (sample not in missing)
        found = Detections(
            boxes=np.tile(np.array([1, 1, 9, 9], np.float32), (1, 2, 1)),
            scores=np.array([[0.4, 0.6]], np.float32),
            labels=np.zeros((1, 2), np.int32),
            valid=valid,
            keypoints=points,
        )
        collector.update(np.array([sample]), np.array([SIZE]), found)
    return collector


def length_of(truth, length):
    """As the papers have it, in plain words."""
    points = dict(zip(NAMES, truth.keypoints[0].tolist()))
    if length == "box":
        x1, y1, x2, y2 = truth.boxes[0].tolist()
        return max(x2 - x1, y2 - y1)
    pairs = [("left_shoulder", "right_hip"), ("right_shoulder", "left_hip")] if length == "torso" else [NAMES[1::-1]]
    for a, b in pairs:
        if points[a][2] > 0 and points[b][2] > 0:
            return math.dist(points[a][:2], points[b][:2])
    return None


@pytest.mark.parametrize(("length", "alpha"), [("torso", 0.2), ("torso", 0.5), ("head", 0.5), ("box", 0.1)])
def test_shares_equal_plain_loops(rng, length, alpha):
    source = pose_source(rng)
    missing = (0, 9)
    collector = collected(rng, source, missing=missing, doubled=True)
    found = collector.collected()
    shares, whole = correct_joints(pose_errors(collector), NAMES, alpha=alpha, length=length), []
    for joint, name in enumerate(NAMES):
        right = total = 0
        for sample in range(len(source)):
            truth = source.annotations(sample)
            unit = length_of(truth, length) if len(truth.labels) else None
            if unit is None or truth.keypoints[0, joint, 2] == 0:
                continue
            total += 1
            rows = [r for r in range(len(found.scores)) if found.samples[r] == sample and found.scores[r] > 0.5]
            assert len(rows) == (sample not in missing)
            for row in rows:
                x, y, _ = found.keypoints[row, joint].tolist()
                right += math.dist((x, y), truth.keypoints[0, joint, :2].tolist()) <= alpha * unit
        assert 5 < total and shares[name] == pytest.approx(right / total), name
        whole.append(right / total)
    assert shares["mean"] == pytest.approx(np.mean(whole)) and 0 < shares["mean"] < 1


def test_an_error_of_just_the_share_is_correct(rng):
    source = pose_source(rng, images=1)
    truth = source.annotations(0)
    truth.keypoints[0] = [[10 * i, 0, 2] for i in range(7)]
    truth.boxes[0] = 0, 0, 60, 50
    collector = collected(rng, source, noise=0)
    found = collector.collected()
    found.keypoints[0, 3, 1], found.keypoints[0, 4, 1] = 12, 12.01  # of a box of 60, a fifth is 12
    collector.collected = lambda: found
    shares = correct_joints(pose_errors(collector), NAMES, alpha=0.2, length="box")
    assert (shares["right_shoulder"], shares["left_hip"], shares["left_wrist"]) == (1.0, 0.0, 1.0)


def test_the_mean_oks_is_pycocotools(rng):
    source = pose_source(rng)
    collector = collected(rng, source, missing=(3,), noise=3.0)
    truth, found, values = COCO(), collector.collected(), []
    persons = [i for i in range(len(source)) if len(source.annotations(i).labels)]
    truth.dataset = {
        "images": [{"id": i} for i in persons],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": i,
                "category_id": 1,
                "bbox": [0, 0, 9, 9],
                "iscrowd": 0,
                "area": float(source.annotations(i).areas[0]),
                "keypoints": source.annotations(i).keypoints[0].astype(float).ravel().tolist(),
                "num_keypoints": int((source.annotations(i).keypoints[0, :, 2] > 0).sum()),
            }
            for i in persons
        ],
    }
    truth.createIndex()
    poses = [
        {"image_id": int(s), "category_id": 1, "score": 0.6, "keypoints": k.astype(float).ravel().tolist()}
        for s, k in zip(found.samples, found.keypoints)
        if s in persons
    ]
    run = COCOeval(truth, truth.loadRes(poses), "keypoints")
    run.params.kpt_oks_sigmas = np.array(SIGMAS)
    run._prepare()
    for i in persons:
        similarity = run.computeOks(i, 1)
        values.append(float(similarity[0, 0]) if len(similarity) else 0.0)
    mean = mean_oks(pose_errors(collector), SIGMAS)
    assert mean == pytest.approx(np.mean(values), abs=1e-9) and 0.1 < mean < 0.9 and values[persons.index(3)] == 0


def test_all_scores_by_name(rng):
    scores = pose_scores(collected(rng, pose_source(rng)))
    assert {"PDJ@0.2", "PDJ@0.5", "PCKh@0.5", "mean_OKS", "PDJ@0.2/neck", "PCKh@0.5/left_wrist"} <= set(scores)
    assert len(scores) == 1 + 3 * (1 + len(NAMES)) and all(0 <= value <= 1 for value in scores.values())
    assert scores["PDJ@0.2"] <= scores["PDJ@0.5"]
    perfect = pose_scores(collected(rng, pose_source(rng), noise=0.0), alphas=(0.01,))
    assert perfect["PDJ@0.01"] == 1.0 and perfect["mean_OKS"] == pytest.approx(1.0)
    other = pose_source(rng, names=("nose", "tail"), sigmas=(0.05, 0.05))
    assert set(pose_scores(collected(rng, other), alphas=(0.2,))) == {
        "PCK@0.2",
        "PCK@0.2/nose",
        "PCK@0.2/tail",
        "mean_OKS",
    }
    assert has_length(("left_shoulder", "right_hip"), "torso") and not has_length(("left_shoulder",), "torso")


def test_nothing_seen_is_no_score(rng):
    source = pose_source(rng)
    scores = pose_scores(DetectionCollector(source, classes=source.classes))
    assert len(scores) > 4 and all(math.isnan(value) for value in scores.values())


def test_faults(rng):
    source = pose_source(rng)
    errors = pose_errors(collected(rng, source))
    with pytest.raises(ValueError, match=r"alpha must be above 0, got 0.0"):
        correct_joints(errors, NAMES, alpha=0.0, length="box")
    with pytest.raises(ValueError, match=r"the length 'head' is between joints called .*'neck', 'head_top'"):
        correct_joints(errors, NAMES[2:], alpha=0.5, length="head")
    truth = source.annotations(0)
    pair = {field.name: getattr(truth, field.name) for field in dataclasses.fields(truth)}
    pair = {n: v * 2 if isinstance(v, tuple) else np.concatenate([v, v]) for n, v in pair.items() if n != "attributes"}
    several = ListedSource([dataclasses.replace(truth, **pair)], classes=("person",), size=SIZE)
    several.keypoints = source.keypoints
    with pytest.raises(ValueError, match="image 1 shows 2 persons, and these scores are for one an image: crop to"):
        pose_errors(collected(rng, several))
    plain = ListedSource([truth], classes=("person",), size=SIZE)
    with pytest.raises(ValueError, match="the data set 'listed' has no joints to score poses by"):
        pose_errors(DetectionCollector(plain, classes=plain.classes))
    boxes = DetectionCollector(source, classes=source.classes)
    one = np.ones((1, 1), np.float32)
    boxes.update(
        np.array([0]), np.array([SIZE]), Detections(one[..., None] * [1, 1, 9, 9], one, one.astype(int) * 0, one > 0)
    )
    with pytest.raises(ValueError, match="the model gives no joints to score"):
        pose_errors(boxes)
