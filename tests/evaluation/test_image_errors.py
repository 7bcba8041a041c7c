"""Errors by image, counted by hand."""

import numpy as np
import pytest

from segjax.evaluation.evaluator import DetectionCollector
from segjax.evaluation.image_errors import ImageErrors, best_and_worst, detections_of, image_errors
from tests.evaluation.listed import ListedSource, detections, feed, objects

A, B, C = [0, 0, 20, 20], [50, 50, 80, 80], [0, 60, 30, 90]


@pytest.fixture
def collector():
    source = ListedSource(
        [
            objects([A, B], [0, 1]),
            objects([A, B], [0, 1], difficult=[False, True]),
            objects(),
            objects([A, B, C], [0, 1, 2], crowd=[False, False, True]),
        ]
    )
    found = [
        [(A, 0.9, 0), (A, 0.8, 0), (B, 0.9, 0), (B, 0.4, 1)],  # a hit, a second hit, a wrong class, one below 0.5
        [(A, 0.9, 0), (B, 0.9, 1)],  # a hit, and one on a difficult object
        [(A, 0.5, 0), (B, 0.49, 0)],
        [(A, 0.9, 0), (B, 0.8, 1)],
    ]
    return feed(DetectionCollector(source, classes=source.classes), source, found)


def test_counts_by_hand(collector):
    assert image_errors(collector) == [
        ImageErrors(0, objects=2, missed=1, wrong=2),
        ImageErrors(1, objects=1, missed=0, wrong=0),
        ImageErrors(2, objects=0, missed=0, wrong=1),
        ImageErrors(3, objects=2, missed=0, wrong=0),
    ]
    assert image_errors(collector)[0].errors == 3


def test_score_threshold_decides_what_counts(collector):
    assert image_errors(collector, score_threshold=0.3)[0] == ImageErrors(0, objects=2, missed=0, wrong=2)
    assert image_errors(collector, score_threshold=1.0)[3] == ImageErrors(3, objects=2, missed=2, wrong=0)


def test_images_not_seen_are_left_out():
    source = ListedSource([objects([A], [0]), objects([A], [0]), objects([A], [0])])
    collector = DetectionCollector(source, classes=source.classes)
    collector.update(np.asarray([2, 0]), np.full((2, 2), (100, 120)), detections([(A, 0.9, 0)], []))
    assert image_errors(collector) == [ImageErrors(0, 1, 1, 0), ImageErrors(2, 1, 0, 0)]


def test_best_and_worst_are_disjoint_and_extreme_first(collector):
    best, worst = best_and_worst(image_errors(collector), 10)
    assert [row.sample for row in best] == [3, 1]  # no error in either, more objects in 3
    assert [row.sample for row in worst] == [0, 2]
    assert [row.sample for row in best_and_worst(image_errors(collector), 1)[1]] == [0]


@pytest.mark.parametrize(("rows", "expected"), [([], (0, 0)), ([ImageErrors(0, 1, 1, 0)], (1, 0))])
def test_best_and_worst_of_few_images(rows, expected):
    best, worst = best_and_worst(rows, 3)
    assert (len(best), len(worst)) == expected


def test_detections_of_one_image(collector):
    found = detections_of(collector, 1)
    np.testing.assert_array_equal(found.boxes, np.asarray([A, B], np.float32))
    assert found.labels.tolist() == [0, 1]
