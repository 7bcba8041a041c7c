"""Pairs of detections and objects by hand, and their number against VOC's own count."""

import dataclasses

import numpy as np
import pytest

from segjax.evaluation.detection_evaluator import DetectionEvaluator
from segjax.evaluation.evaluator import DetectionCollector
from segjax.evaluation.matched_objects import matched_objects
from segjax.evaluation.voc_ap import VocAP
from tests.evaluation.listed import ListedSource, detections, feed, objects, random_detections, random_source
from tests.evaluation.posed import feed_posed, posed_source

A, B, C = [0, 0, 20, 20], [50, 50, 80, 80], [0, 60, 30, 90]


@pytest.fixture
def collector():
    ignored = objects([A, B], [0, 1], difficult=[True, False], crowd=[False, True])
    source = ListedSource([objects([C, A, B], [2, 0, 1]), objects(), ignored, objects([B, A], [1, 1])])
    found = [
        [(A, 0.6, 0), (B, 0.9, 1), (A, 0.7, 0), (B, 0.8, 0)],  # a second hit that is better, and one of a wrong class
        [(A, 0.9, 0)],
        [(A, 0.9, 0), (B, 0.9, 1)],
        [(A, 0.4, 1)],
    ]
    return feed(DetectionCollector(source, classes=source.classes), source, found)


def test_pairs_by_hand(collector):
    matched = matched_objects(collector)
    assert matched.rows.tolist() == [1, 2, 7]
    assert matched.samples.tolist() == [0, 0, 3]
    assert matched.objects.tolist() == [2, 1, 1]
    assert matched_objects(collector, score_threshold=0.65).rows.tolist() == [1, 2]
    assert matched_objects(collector, score_threshold=0.95).objects.tolist() == []


def test_nothing_detected_gives_no_pairs():
    source = ListedSource([objects([A], [0])])
    matched = matched_objects(feed(DetectionCollector(source, classes=source.classes), source, [[]]))
    assert [len(column) for column in matched] == [0, 0, 0]
    with pytest.raises(ValueError, match="'listed' has no attribute 'angle'; it has: none"):
        matched.attribute(source, "angle")
    truth = dataclasses.replace(objects([A], [0]), attributes={"angle": np.ones(1, np.float32)})
    assert matched.attribute(ListedSource([truth]), "angle").shape == (0,)


@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_as_many_pairs_as_voc_counts_hits(threshold, rng):
    source = random_source(rng, difficult=True)
    found = [random_detections(rng, source, i) for i in range(len(source))]
    run = feed(VocAP(source, classes=source.classes, iou_threshold=threshold), source, found)
    matched = matched_objects(run.collector, iou_threshold=threshold)
    hits = 0
    for label, curve in enumerate(run.recall_precision().values()):
        total = sum(
            int(((t.labels == label) & ~t.crowd & ~t.difficult).sum()) for t in map(source.annotations, range(30))
        )
        hits += round(curve[0][-1] * total) if curve else 0
    assert len(matched.rows) == hits > 20
    rows = run.collector.collected().select(matched.rows)
    truths = [source.annotations(s) for s in matched.samples]
    np.testing.assert_array_equal(rows.labels, [t.labels[o] for t, o in zip(truths, matched.objects)])
    assert len({*zip(matched.samples.tolist(), matched.objects.tolist())}) == hits


def test_the_error_of_an_attribute_in_three_lines(rng):
    """As in the module's own example; the detections say one degree too much, some objects say nothing."""
    source = posed_source(rng)
    evaluator = feed_posed(DetectionEvaluator(source, classes=source.classes), rng, source)
    matched = matched_objects(evaluator.collector, iou_threshold=0.8)
    predicted = evaluator.collector.collected().extra["angle"][matched.rows]
    truth = matched.attribute(source, "angle")
    assert len(truth) > 15 and np.isnan(truth).any()
    assert np.nanmedian(np.abs(predicted - truth)) == pytest.approx(1.0, abs=1e-4)


def test_attributes_may_be_lists_of_numbers_and_must_exist():
    truth = dataclasses.replace(objects([A], [0]), attributes={"colour": np.asarray([[1, 2, 3]], np.float32)})
    source = ListedSource([truth])
    collector = DetectionCollector(source, classes=source.classes)
    collector.update(np.asarray([0]), np.asarray([[100, 120]]), detections([(A, 0.9, 0)]))
    np.testing.assert_array_equal(matched_objects(collector).attribute(source, "colour"), [[1, 2, 3]])
    with pytest.raises(ValueError, match="'listed' has no attribute 'angle'; it has: colour"):
        matched_objects(collector).attribute(source, "angle")
    with pytest.raises(ValueError, match="iou_threshold must be above 0 and at most 1, got 0"):
        matched_objects(collector, iou_threshold=0.0)
