"""COCO AP against pycocotools, and its edges: nothing to find, nothing found, only a part of the images."""

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segjax.evaluation.coco_ap import CocoAP
from tests.evaluation.listed import ListedSource, detections, feed, objects, random_detections, random_source

SIZES = ("small", "medium", "large")
NAMES = ["AP", "AP50", "AP75", *(f"AP_{s}" for s in SIZES), "AR1", "AR10", "AR100", *(f"AR_{s}" for s in SIZES)]


def pycocotools_run(source, results, *, category_ids, images=None):
    """COCOeval as its own documentation runs it, on the source's annotations and a result list."""
    truth = COCO()
    indices = range(len(source)) if images is None else images
    annotations = []
    for i in indices:
        listed = source.annotations(i)
        for box, label, area, crowd in zip(listed.boxes, listed.labels, listed.areas, listed.crowd):
            x1, y1, x2, y2 = (float(value) for value in box)
            row = {"id": len(annotations) + 1, "image_id": source.info(i).image_id, "area": float(area)}
            row |= {"category_id": category_ids[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(crowd)}
            annotations.append(row)
    truth.dataset = {
        "info": {},
        "images": [{"id": source.info(i).image_id, "height": 450, "width": 460} for i in indices],
        "categories": [{"id": category_ids[k], "name": name} for k, name in enumerate(source.classes)],
        "annotations": annotations,
    }
    truth.createIndex()
    run = COCOeval(truth, truth.loadRes(results), "bbox")
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed, capsys):
    rng = np.random.default_rng(seed)
    ids = [int(i) for i in rng.permutation(1000)[:30]]  # ties across images are broken in the order of the image ids
    source = random_source(rng, ids=ids)
    source.category_ids = (11, 12, 15, 40)
    evaluator = feed(
        CocoAP(source, classes=source.classes), source, [random_detections(rng, source, i) for i in range(30)]
    )
    scores = evaluator.compute()
    assert capsys.readouterr().out == ""

    run = pycocotools_run(source, evaluator.results(), category_ids=source.category_ids)
    assert 0.05 < run.stats[0] < 0.9
    np.testing.assert_allclose([scores[name] for name in NAMES], run.stats, rtol=0, atol=1e-12)
    curves = evaluator.precision_recall(0.75)
    np.testing.assert_allclose(curves.precision[:3], run.eval["precision"][5, :, :3, 0, 2].T, rtol=0, atol=1e-12)
    reached = curves.precision[:3] > 0
    np.testing.assert_allclose(curves.scores[:3][reached], run.eval["scores"][5, :, :3, 0, 2].T[reached], atol=1e-7)
    for k, name in enumerate(source.classes[:3]):
        assert scores[f"AP/{name}"] == pytest.approx(run.eval["precision"][:, :, k, 0, 2].mean(), abs=1e-12)
        assert scores[f"AP50/{name}"] == pytest.approx(run.eval["precision"][0, :, k, 0, 2].mean(), abs=1e-12)
    assert np.isnan(scores["AP/class 3"]) and np.isnan(curves.precision[3]).all()  # a class without objects


def test_more_than_hundred_detections_of_a_class_are_cut_like_pycocotools(rng):
    source = random_source(rng, images=3, classes=2)
    found = []
    for i in range(3):
        boxes = rng.uniform(0, 200, (150, 4))
        boxes[:, 2:] += boxes[:, :2]
        boxes[-len(source.annotations(i).boxes) :] = source.annotations(i).boxes  # the best boxes score the least
        found.append([(box, 1 - 0.001 * rank, 0) for rank, box in enumerate(boxes)])
    evaluator = feed(CocoAP(source, classes=source.classes), source, found)
    run = pycocotools_run(source, evaluator.results(), category_ids=(1, 2))
    expected = [np.nan if value == -1 else value for value in run.stats]
    np.testing.assert_allclose([evaluator.compute()[name] for name in NAMES], expected, rtol=0, atol=1e-12)


def test_perfect_detections_score_one(rng):
    source = random_source(rng)
    found = []
    for i in range(len(source)):
        truth = source.annotations(i)
        found.append([(box, 0.9, label) for box, label in zip(truth.boxes, truth.labels)])
    scores = feed(CocoAP(source, classes=source.classes), source, found).compute()
    for name in set(NAMES) - {"AR1", "AR10"}:
        assert scores[name] == pytest.approx(1.0), name


def test_images_not_given_are_left_out(rng):
    source = random_source(rng)
    found = [random_detections(rng, source, i) for i in range(30)]
    evaluator = CocoAP(source, classes=source.classes)
    evaluator.update(np.arange(5), np.full((5, 2), (450, 460)), detections(*found[:5]))
    run = pycocotools_run(source, evaluator.results(), category_ids=(1, 2, 3, 4), images=range(5))
    expected = [np.nan if value == -1 else value for value in run.stats]
    np.testing.assert_allclose([evaluator.compute()[name] for name in NAMES], expected, rtol=0, atol=1e-12)


def test_scores_follow_later_updates():
    source = ListedSource([objects([[0, 0, 50, 50]], [0])] * 2)
    evaluator = CocoAP(source, classes=source.classes)
    size = np.asarray([[100, 120]])
    evaluator.update(np.asarray([0]), size, detections([([0, 0, 50, 50], 0.9, 0)]))
    assert evaluator.compute()["AP"] == pytest.approx(1.0)
    evaluator.update(np.asarray([1]), size, detections([]))
    assert evaluator.compute()["AR100"] == pytest.approx(0.5)


def test_without_detections_scores_are_zero():
    source = ListedSource([objects([[0, 0, 50, 50]], [0]), objects()])
    scores = feed(CocoAP(source, classes=source.classes), source, [[], []]).compute()
    assert scores["AP"] == 0.0 and scores["AR100"] == 0.0
    assert np.isnan(scores["AP_small"])


@pytest.mark.parametrize("crowd_only", [False, True])
def test_without_objects_scores_are_nan(crowd_only):
    truth = objects([[0, 0, 50, 50]], [0], crowd=[True]) if crowd_only else objects()
    source = ListedSource([truth])
    evaluator = feed(CocoAP(source, classes=source.classes), source, [[([0, 0, 50, 50], 0.9, 0)]])
    scores = evaluator.compute()
    assert all(np.isnan(value) for value in scores.values())
    assert np.isnan(evaluator.precision_recall().precision).all()


def test_without_images_scores_are_nan():
    source = ListedSource([objects([[0, 0, 50, 50]], [0])])
    scores = CocoAP(source, classes=source.classes).compute()
    assert list(scores)[:12] == NAMES and all(np.isnan(value) for value in scores.values())


def test_difficult_objects_are_neither_demanded_nor_punished():
    truth = objects([[0, 0, 40, 40], [60, 60, 100, 100]], [0, 0], difficult=[False, True])
    source = ListedSource([truth])
    hit, on_difficult = ([0, 0, 40, 40], 0.8, 0), ([60, 60, 100, 100], 0.9, 0)
    for found in ([hit], [hit, on_difficult]):
        scores = feed(CocoAP(source, classes=source.classes), source, [found]).compute()
        assert scores["AP"] == pytest.approx(1.0)


def test_precision_recall_refuses_other_thresholds():
    source = ListedSource([objects()])
    with pytest.raises(ValueError, match=r"iou_threshold must be one of .* got 0.52"):
        CocoAP(source, classes=source.classes).precision_recall(0.52)
