"""Confusion matrices of pixels and what follows from them, against scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn import metrics

from segjax.evaluation import confusion
from segjax.types import IGNORE


def maps(rng, classes, shape=(40, 50)):
    truth = rng.integers(0, classes, shape).astype(np.uint8)
    predicted = np.where(rng.random(shape) < 0.7, truth, rng.integers(0, classes, shape)).astype(np.uint8)
    truth[rng.random(shape) < 0.1] = IGNORE
    return truth, predicted


@pytest.mark.parametrize("classes", [2, 6, 255])
@pytest.mark.parametrize("jit", [False, True])
def test_matrix_is_sklearns_without_ignored_pixels(rng, classes, jit):
    truth, predicted = maps(rng, classes)
    count = jax.jit(confusion.confusion_matrix, static_argnames="classes") if jit else confusion.confusion_matrix
    kept = truth != IGNORE
    expected = metrics.confusion_matrix(truth[kept], predicted[kept], labels=np.arange(classes))
    found = count(truth, predicted, classes=classes)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int32


def test_only_the_classes_of_the_map_count():
    truth, predicted = np.array([0, 1, 2, 7, 255], np.uint8), np.array([0, 0, 1, 1, 1], np.uint8)
    np.testing.assert_array_equal(confusion.confusion_matrix(truth, predicted, classes=2), [[1, 0], [1, 0]])
    void = np.full(4, IGNORE, np.uint8)
    assert not np.any(confusion.confusion_matrix(void, np.zeros(4, np.uint8), classes=2))


def test_scores_are_sklearns(rng):
    truth, predicted = maps(rng, 5)
    kept = truth != IGNORE
    pair = truth[kept], predicted[kept]
    matrix = metrics.confusion_matrix(*pair)
    np.testing.assert_allclose(confusion.class_iou(matrix), metrics.jaccard_score(*pair, average=None))
    np.testing.assert_allclose(confusion.class_accuracy(matrix), metrics.recall_score(*pair, average=None))
    mean = confusion.mean_of_defined(confusion.class_iou(matrix))
    assert mean == pytest.approx(metrics.jaccard_score(*pair, average="macro"))
    assert confusion.pixel_accuracy(matrix) == pytest.approx(metrics.accuracy_score(*pair))
    assert confusion.frequency_iou(matrix) == pytest.approx(metrics.jaccard_score(*pair, average="weighted"))


def test_absent_classes_are_left_out_as_sklearn_leaves_them_out():
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 3])
    matrix = metrics.confusion_matrix(truth, predicted, labels=range(4))
    iou, recall = confusion.class_iou(matrix), confusion.class_accuracy(matrix)
    np.testing.assert_allclose(iou, [1 / 2, 1 / 3, np.nan, 0])
    np.testing.assert_allclose(recall, [1 / 2, 1 / 2, np.nan, np.nan])
    assert confusion.mean_of_defined(iou) == pytest.approx(metrics.jaccard_score(truth, predicted, average="macro"))
    assert confusion.frequency_iou(matrix) == pytest.approx((1 / 2 + 1 / 3) / 2)


def test_without_pixels_nothing_is_defined():
    empty = np.zeros((3, 3), int)
    scores = [confusion.pixel_accuracy(empty), confusion.frequency_iou(empty), *confusion.class_iou(empty)]
    assert np.isnan(scores).all() and np.isnan(confusion.mean_of_defined(confusion.class_accuracy(empty)))
