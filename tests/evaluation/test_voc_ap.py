"""VOC AP by hand, against the devkit's loop written out, and against COCOeval where the two rules coincide."""

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster

from segjax.evaluation.voc_ap import VocAP, area_ap, eleven_point_ap
from tests.evaluation.listed import ListedSource, feed, objects, random_detections, random_source


def overlap(box, other):
    """IoU of two boxes, one number at a time."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return width * height / (sum(areas) - width * height)


def oracle(source, found, label, iou_threshold):
    """Recall and precision of one class, as the devkit's loop over detections says it; `found`: (box, score, label)."""
    free, total = {}, 0
    for i in range(len(source)):
        truth = source.annotations(i)
        mine = [j for j in range(len(truth.labels)) if truth.labels[j] == label]
        ignored = {j: bool(truth.difficult[j] or truth.crowd[j]) for j in mine}
        free[i] = {j: (truth.boxes[j].astype(float), ignored[j], [False]) for j in mine}
        total += sum(not ignored[j] for j in mine)
    rows = [(score, i, box) for i, image in enumerate(found) for box, score, k in image if k == label]
    rows.sort(key=lambda row: -np.float32(row[0]))
    verdicts = []
    for _, i, box in rows:
        best, winner = -1.0, None
        for candidate in free[i].values():
            value = overlap(np.asarray(box, np.float32).astype(float), candidate[0])
            if value > best:
                best, winner = value, candidate
        if winner is None or best < iou_threshold:
            verdicts.append(0)
        elif not winner[1]:
            verdicts.append(0 if winner[2][0] else 1)
            winner[2][0] = True
    hits = np.cumsum(verdicts)
    return (hits / total, hits / np.arange(1, len(hits) + 1)) if total else None


def stepwise_area(recall, precision):
    """The area under the curve: for each recall that occurs, the step to it times the best precision from there on."""
    area, last = 0.0, 0.0
    for level in sorted(set(recall.tolist()) - {0.0}):
        area += (level - last) * max(p for r, p in zip(recall, precision) if r >= level)
        last = level
    return area


def test_averages_of_a_curve_worked_by_hand():
    # Five objects; hits at ranks 1, 2 and 5 of five detections: recall .2 .4 .4 .4 .6, precision 1 1 2/3 1/2 3/5.
    recall = np.asarray([0.2, 0.4, 0.4, 0.4, 0.6])
    precision = np.asarray([1, 1, 2 / 3, 1 / 2, 3 / 5])
    assert area_ap(recall, precision) == pytest.approx(0.4 * 1 + 0.2 * 0.6)
    # Recalls 0, .1, .2, .3, .4 reach precision 1; .5 and .6 reach 3/5; .7 to 1 nothing.
    assert eleven_point_ap(recall, precision) == pytest.approx((5 * 1 + 2 * 0.6) / 11)


def test_recall_of_three_tenths_meets_its_point():
    hits = np.arange(1, 4)
    assert eleven_point_ap(hits / 10, np.ones(3)) == pytest.approx(4 / 11)


def test_averages_of_no_detections_are_zero():
    assert area_ap(np.zeros(0), np.zeros(0)) == 0.0
    assert eleven_point_ap(np.zeros(0), np.zeros(0)) == 0.0


def test_second_hit_on_an_object_is_wrong_though_another_is_in_reach():
    # Both detections overlap the first object most; the second detection also reaches the other object (IoU 110 / 150).
    source = ListedSource([objects([[0, 0, 10, 10], [0, 0, 15, 10]], [0, 0])])
    found = [[([0, 0, 10, 10], 0.9, 0), ([0, 0, 11, 10], 0.8, 0)]]
    run = feed(VocAP(source, classes=source.classes), source, found)
    recall, precision = run.recall_precision()["ant"]
    np.testing.assert_allclose(recall, [0.5, 0.5])
    np.testing.assert_allclose(precision, [1.0, 0.5])
    assert run.compute()["VOC_AP"] == pytest.approx(0.5)
    assert run.compute()["VOC_AP_11point"] == pytest.approx(6 / 11)


def test_difficult_objects_and_hits_on_them_do_not_count():
    truth = objects([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 0], difficult=[False, True])
    source = ListedSource([truth])
    found = [[([50, 50, 60, 60], 0.9, 0), ([50, 50, 60, 61], 0.85, 0), ([0, 0, 10, 10], 0.8, 0)]]
    recall, precision = feed(VocAP(source, classes=source.classes), source, found).recall_precision()["ant"]
    np.testing.assert_allclose(recall, [1.0])
    np.testing.assert_allclose(precision, [1.0])


def test_overlap_equal_to_the_threshold_is_a_hit():
    source = ListedSource([objects([[0, 0, 10, 10]], [0])])
    found = [[([0, 0, 10, 5], 0.9, 0)]]
    assert feed(VocAP(source, classes=source.classes), source, found).compute()["VOC_AP"] == 1.0
    strict = VocAP(source, classes=source.classes, iou_threshold=0.51)
    assert feed(strict, source, found).compute()["VOC_AP"] == 0.0


def test_means_are_over_classes_with_objects():
    source = ListedSource([objects([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 1])])
    scores = feed(VocAP(source, classes=source.classes), source, [[([0, 0, 10, 10], 0.9, 0)]]).compute()
    assert scores["VOC_AP/ant"] == 1.0 and scores["VOC_AP/bee"] == 0.0 and np.isnan(scores["VOC_AP/cat"])
    assert scores["VOC_AP"] == 0.5 and scores["VOC_AP_11point"] == 0.5


def test_nothing_to_find_is_nan():
    source = ListedSource([objects()])
    scores = feed(VocAP(source, classes=source.classes), source, [[([0, 0, 10, 10], 0.9, 0)]]).compute()
    assert all(np.isnan(value) for value in scores.values())
    assert all(np.isnan(value) for value in VocAP(source, classes=source.classes).compute().values())


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_refuses_thresholds_outside_the_range(threshold):
    source = ListedSource([objects()])
    with pytest.raises(ValueError, match=f"iou_threshold must be above 0 and at most 1, got {threshold}"):
        VocAP(source, classes=source.classes, iou_threshold=threshold)


@pytest.mark.parametrize(("seed", "threshold"), [(0, 0.5), (1, 0.5), (2, 0.3), (3, 0.75)])
def test_equals_the_devkit_loop(seed, threshold):
    rng = np.random.default_rng(seed)
    source = random_source(rng, difficult=True)
    found = [random_detections(rng, source, i) for i in range(len(source))]
    run = feed(VocAP(source, classes=source.classes, iou_threshold=threshold), source, found)
    scores = run.compute()
    for label, (name, curve) in enumerate(run.recall_precision().items()):
        expected = oracle(source, found, label, threshold)
        assert (curve is None) == (expected is None)
        if curve is not None:
            np.testing.assert_allclose(curve, expected, atol=1e-12)
            assert scores[f"VOC_AP/{name}"] == pytest.approx(stepwise_area(*expected), abs=1e-12)
    assert 0.02 < scores["VOC_AP"] < 0.95


@pytest.mark.parametrize("seed", range(3))
def test_equals_coco_eval_with_eleven_recalls_where_objects_do_not_touch(seed):
    rng = np.random.default_rng(seed)
    listed, found = [], []
    for _ in range(20):
        corners = np.stack(np.meshgrid([0, 150, 300], [0, 150, 300]), axis=-1).reshape(-1, 2)
        boxes = np.concatenate([corners, corners + rng.uniform(40, 140, (9, 2))], axis=1)
        listed.append(objects(boxes, rng.integers(0, 3, 9)))
        noisy = np.concatenate([boxes, boxes]) + rng.normal(0, 8, (18, 4))
        labels = np.where(rng.random(18) < 0.8, np.tile(listed[-1].labels, 2), rng.integers(0, 3, 18))
        found.append(list(zip(noisy, rng.random(18), labels)))
    source = ListedSource(listed, size=(450, 460))
    run = feed(VocAP(source, classes=source.classes), source, found)

    annotations = []
    for i, truth in enumerate(listed, start=1):
        for box, label, area in zip(truth.boxes.tolist(), truth.labels.tolist(), truth.areas.tolist()):
            xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            row = {"id": len(annotations) + 1, "image_id": i, "category_id": label + 1, "bbox": xywh, "area": area}
            annotations.append(row | {"iscrowd": 0})
    images = [{"id": i, "height": 450, "width": 460} for i in range(1, 21)]
    categories = [{"id": k, "name": name} for k, name in enumerate(source.classes, start=1)]
    truth = COCO({"images": images, "categories": categories, "annotations": annotations})
    peer = COCOeval_faster(truth, truth.loadRes(run.results()), "bbox")
    peer.params.iouThrs, peer.params.recThrs = np.asarray([0.5]), np.arange(11) / 10
    peer.evaluate()
    peer.accumulate()
    expected = peer.eval["precision"][0, :, :, 0, -1].mean(axis=0)
    scores = run.compute()
    np.testing.assert_allclose([scores[f"VOC_AP_11point/{name}"] for name in source.classes], expected, atol=1e-12)
    assert 0.1 < expected.min() < 0.99
