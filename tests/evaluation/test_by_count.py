"""Scores by the number of objects against VOC's scores of a source of just those images, and counts by hand."""

import numpy as np
import pytest

from segjax.evaluation.by_count import scores_by_count
from segjax.evaluation.evaluator import DetectionCollector
from segjax.evaluation.voc_ap import VocAP
from tests.evaluation.listed import ListedSource, feed, objects, random_detections, random_source

A, B = [0, 0, 20, 20], [50, 50, 80, 80]


def collected(source, found):
    return feed(DetectionCollector(source, classes=source.classes), source, found)


@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_a_group_scores_as_a_data_set_of_its_images(threshold, rng):
    source = random_source(rng, images=40, difficult=True)
    found = [random_detections(rng, source, i) for i in range(len(source))]
    truths = [source.annotations(i) for i in range(len(source))]
    counts = np.array([(~truth.difficult & ~truth.crowd).sum() for truth in truths])
    groups = ((1, 2), (3, 4), (5, None), (0, None))
    scores = scores_by_count(collected(source, found), groups=groups, iou_threshold=threshold)
    percent = round(100 * threshold)
    assert list(scores) == [f"AP{percent}_objects_{name}" for name in ("1_2", "3_4", "5_up", "0_up")] + ["count_error"]
    for (low, high), value in zip(groups, scores.values()):
        chosen = np.flatnonzero((counts >= low) & (counts <= (high or np.inf)))
        assert len(chosen) > 2
        part = ListedSource([truths[i] for i in chosen], classes=source.classes)
        alone = feed(VocAP(part, classes=part.classes, iou_threshold=threshold), part, [found[i] for i in chosen])
        assert 0 < value < 1 and value == pytest.approx(alone.compute()["VOC_AP"], abs=1e-12)


def test_objects_are_counted_by_hand():
    source = ListedSource([objects([A, B], [0, 1], crowd=[False, True]), objects(), objects([A, B], [1, 1])])
    found = [[(A, 0.5, 0)], [(A, 0.9, 0), (B, 0.49, 0)], [(A, 0.1, 1)]]
    scores = scores_by_count(collected(source, found), groups=((1, 1), (2, None), (7, 9)))
    assert scores["count_error"] == pytest.approx((0 + 1 + 2) / 3)
    assert scores["AP50_objects_1_1"] == 1.0 and scores["AP50_objects_2_up"] == 0.5
    assert np.isnan(scores["AP50_objects_7_9"])


def test_nothing_seen_is_no_score():
    source = ListedSource([objects([A], [0])])
    scores = scores_by_count(DetectionCollector(source, classes=source.classes))
    assert all(np.isnan(value) for value in scores.values())


def test_a_group_that_nothing_lies_in_is_refused():
    with pytest.raises(ValueError, match=r"groups has \(3, 2\), which no number of objects lies in"):
        scores_by_count(collected(ListedSource([objects([A], [0])]), [[]]), groups=((3, 2),))
