"""ILSVRC's scores by hand, and against loops over random images."""

import numpy as np
import pytest

from segjax.evaluation.evaluator import DetectionCollector
from segjax.evaluation.localization import localization_scores
from tests.evaluation.listed import ListedSource, detections, feed, objects, random_detections, random_source

A, B = [0, 0, 20, 20], [50, 50, 80, 80]
HALF, LESS = [50, 50, 80, 65], [50, 50, 80, 64.9]
"""Of B exactly half, and a little less."""


def scored(listed, found, **options):
    source = ListedSource(listed)
    return localization_scores(feed(DetectionCollector(source, classes=source.classes), source, found), **options)


def test_by_hand():
    listed = [objects([A, B], [0, 1])] * 5 + [objects(), objects([B], [1], crowd=[True])]
    found = [
        [(HALF, 0.9, 1), (A, 0.8, 0)],
        [(LESS, 0.9, 1)],
        [(A, 0.9, 0), (B, 0.8, 1)],  # the other object is not the main one
        [(B, 0.5, 2), (HALF, 0.5, 1)],  # of equal scores the first is the best
        [],
        [(B, 0.9, 1)],  # images without a main object do not count
        [(B, 0.9, 1)],
    ]
    scores = scored(listed, found)
    assert scores["top1"] == 2 / 5 and scores["localization"] == 1 / 5
    assert scores["localization_iou"] == pytest.approx((0.5 + 14.9 / 30) / 2, abs=1e-6)
    assert scores["top1/bee"] == 2 / 5 and np.isnan(scores["top1/ant"]) and np.isnan(scores["localization/cat"])
    assert "top2" not in scores
    two = scored(listed, found, guesses=2)
    assert two["top1"] == 2 / 5 and two["top2"] == 4 / 5 and two["localization_top2"] == 3 / 5
    assert scored(listed, found, iou_threshold=0.4)["localization"] == 2 / 5


def test_any_object_of_the_class_is_right():
    """As in ILSVRC, whose images have one class and as many boxes of it as there are objects."""
    listed = [objects([A, B], [1, 1]), objects([A, B], [1, 1], difficult=[True, False])]
    scores = scored(listed, [[(A, 0.9, 1)]] * 2)
    assert scores["top1"] == 1 and scores["localization"] == 1 / 2


def test_nothing_seen_is_nan():
    source = ListedSource([objects([A], [0])])
    scores = localization_scores(DetectionCollector(source, classes=source.classes))
    assert all(np.isnan(value) for value in scores.values()) and len(scores) == 3 + 2 * 3
    assert np.isnan(scored([objects([A], [0])], [[(A, 0.5, 1)]])["localization_iou"])


@pytest.mark.parametrize("options", [{"guesses": 0}, {"iou_threshold": 0.0}, {"iou_threshold": 1.1}])
def test_what_cannot_be(options):
    with pytest.raises(ValueError, match="must be at least 1, and iou_threshold="):
        scored([objects([A], [0])], [[]], **options)


def iou(a, b):
    a, b = np.asarray(a, float), np.asarray(b, float)
    wide, high = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = max(wide, 0) * max(high, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("guesses", [1, 5])
def test_against_loops(guesses, rng):
    source = random_source(rng, difficult=True)
    found = [random_detections(rng, source, i) for i in range(len(source))]
    counted, sums = 0, dict.fromkeys(("top1", "localization", "any", "any_box"), 0)
    ious = []
    for sample, rows in enumerate(found):
        truth = source.annotations(sample)
        plain = [k for k in range(len(truth.labels)) if not truth.crowd[k] and not truth.difficult[k]]
        if not plain:
            continue
        counted += 1
        label = truth.labels[max(plain, key=lambda k: (truth.areas[k], -k))]
        best = sorted(rows, key=lambda row: -np.float32(row[1]))[:guesses]
        verdicts = []
        for box, _, predicted in best:
            box = np.float32(box)
            overlaps = [iou(box, truth.boxes[k]) for k in plain if truth.labels[k] == label]
            verdicts.append((predicted == label, predicted == label and max(overlaps) >= 0.5))
            if len(verdicts) == 1 and predicted == label:
                ious.append(max(overlaps))
        sums["top1"] += verdicts[0][0]
        sums["localization"] += verdicts[0][1]
        sums["any"] += any(v[0] for v in verdicts)
        sums["any_box"] += any(v[1] for v in verdicts)
    run = feed(DetectionCollector(source, classes=source.classes), source, found)
    scores = localization_scores(run, guesses=guesses)
    assert 0 < sums["localization"] < sums["top1"] < counted
    expected = {"top1": sums["top1"], "localization": sums["localization"]}
    if guesses > 1:
        expected |= {"top5": sums["any"], "localization_top5": sums["any_box"]}
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value / counted), name
    assert scores["localization_iou"] == pytest.approx(np.mean(ious), abs=1e-5)
    single = [scores[f"top1/{name}"] for name in source.classes]
    assert np.isnan(single[-1]) and not np.isnan(single[:-1]).any()


def test_boxes_of_resized_images_are_scored_in_the_files_pixels():
    source = ListedSource([objects([B], [1])])
    collector = DetectionCollector(source, classes=source.classes)
    collector.update(np.array([0]), np.array([[50, 60]]), detections([(np.array(B) / 2, 0.9, 1)]))
    assert localization_scores(collector)["localization_iou"] == pytest.approx(1)
