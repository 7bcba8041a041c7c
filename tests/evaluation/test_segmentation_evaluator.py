"""Scores of label maps at the size of the files, against scikit-learn on maps resized by torch's rule in NumPy."""

import chex
import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn import metrics

from segjax.data.source import DataError
from segjax.evaluation import confusion, segmentation_maps
from segjax.evaluation.boundary import boundary_f
from segjax.evaluation.segmentation_evaluator import SegmentationEvaluator
from segjax.types import IGNORE, SegmentationMap
from tests.evaluation.labelled import CLASSES, LabelledSource, batch_of, drawn_map, spoiled


def evaluator(source, **options):
    return SegmentationEvaluator(source, classes=source.classes, **options)


def resized(image, size):
    """Bilinear with half-pixel centres, pixel by pixel."""
    h, w = image.shape[:2]
    y = np.clip((np.arange(size[0]) + 0.5) * h / size[0] - 0.5, 0, h - 1)
    x = np.clip((np.arange(size[1]) + 0.5) * w / size[1] - 0.5, 0, w - 1)
    out = np.zeros((*size, image.shape[2]))
    for i, a in enumerate(y):
        for j, b in enumerate(x):
            top, left = int(a), int(b)
            below, right = min(top + 1, h - 1), min(left + 1, w - 1)
            p, q = a - top, b - left
            out[i, j] = (1 - p) * ((1 - q) * image[top, left] + q * image[top, right])
            out[i, j] += p * ((1 - q) * image[below, left] + q * image[below, right])
    return out


@pytest.fixture
def source(rng):
    return LabelledSource([drawn_map(rng, 40, 50) for _ in range(4)] + [drawn_map(rng, 50, 40)])


@pytest.fixture
def predicted(rng, source):
    return [spoiled(rng, source.label_map(i)) for i in range(len(source))]


def pixels(source, predicted):
    truth = np.concatenate([source.label_map(i).reshape(-1) for i in range(len(predicted))])
    found = np.concatenate([p.reshape(-1) for p in predicted])
    return truth[truth != IGNORE], found[truth != IGNORE]


def feed(evaluator, predicted, *, shape=(64, 64), put=lambda x: x):
    for first in range(0, len(predicted), 2):
        maps = predicted[first : first + 2]
        numbers = [*range(first, first + len(maps)), -1][:2]
        samples, sizes, found = batch_of([*maps, None][:2], shape=shape, samples=numbers)
        evaluator.update(samples, sizes, SegmentationMap(put(found.logits)))
    return evaluator


@pytest.mark.parametrize("put", [np.asarray, jax.device_put])
def test_scores_are_sklearns_at_equal_size(source, predicted, put):
    scores = feed(evaluator(source), predicted, put=put)
    pair, results = pixels(source, predicted), scores.compute()
    np.testing.assert_array_equal(scores.confusion, metrics.confusion_matrix(*pair))
    assert scores.confusion.dtype == np.int64 and scores.seen == 5
    assert results["mIoU"] == pytest.approx(metrics.jaccard_score(*pair, average="macro"))
    assert results["pixel_accuracy"] == pytest.approx(metrics.accuracy_score(*pair))
    assert results["class_accuracy"] == pytest.approx(metrics.recall_score(*pair, average="macro"))
    assert results["frequency_IoU"] == pytest.approx(metrics.jaccard_score(*pair, average="weighted"))
    by_class = metrics.jaccard_score(*pair, average=None)
    np.testing.assert_allclose([results[f"IoU/{name}"] for name in CLASSES], by_class)
    table = np.array([boundary_f(source.label_map(i), p, classes=3) for i, p in enumerate(predicted)])
    assert results["boundary_F"] == pytest.approx(np.mean(np.nanmean(table, axis=1)))
    np.testing.assert_allclose([results[f"boundary_F/{name}"] for name in CLASSES], np.nanmean(table, axis=0))


def test_logits_are_brought_to_the_size_of_the_files(rng):
    source = LabelledSource([drawn_map(rng, 75, 90), drawn_map(rng, 30, 64), drawn_map(rng, 40, 20)])
    sizes = np.array([[40, 48], [20, 43], [40, 20]], np.int32)
    logits = rng.normal(size=(3, 40, 48, 3)).astype(np.float32)
    samples = np.arange(3, dtype=np.int32)
    maps = segmentation_maps.file_maps(logits, sizes, samples, source)
    assert maps.labels.shape == (3, 128, 128)
    expected = []
    for i, (h, w) in enumerate(sizes):
        expected.append(resized(logits[i, :h, :w].astype(float), source.label_map(i).shape).argmax(-1))
        np.testing.assert_array_equal(maps.cropped(i, np.asarray(maps.labels)), expected[i])
    scores = evaluator(source)
    scores.update(samples, sizes, SegmentationMap(logits))
    np.testing.assert_array_equal(scores.confusion, metrics.confusion_matrix(*pixels(source, expected)))


def test_shared_out_over_devices(rng):
    source = LabelledSource([drawn_map(rng, 24 + 3 * i, 40) for i in range(8)])
    sizes = np.tile(np.array([[24, 32]], np.int32), (8, 1))
    logits = rng.normal(size=(8, 24, 32, 3)).astype(np.float32)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    shared = jax.device_put(logits, NamedSharding(mesh, PartitionSpec("data")))
    assert len(shared.sharding.device_set) == 8
    results = []
    for given in (logits, shared):
        scores = evaluator(source)
        scores.update(np.arange(8, dtype=np.int32), sizes, SegmentationMap(given))
        results.append(scores.compute())
    chex.assert_trees_all_close(*results)
    files = np.array([source.label_map(i).shape for i in range(8)], np.int32)
    program = segmentation_maps._argmax.lower(shared, sizes, files, canvas=(64, 64), resized=True).compile()
    assert "all-gather" not in program.as_text(), "logits stay on their devices"


def test_one_program_for_each_shape_of_batch_and_canvas(rng):
    sizes = [(30, 40), (40, 30), (33, 47), (64, 60), (65, 20)]
    source = LabelledSource([drawn_map(rng, *size) for size in sizes])
    before = segmentation_maps._argmax._cache_size()
    for _ in range(2):
        scores = evaluator(source, boundary=False, keep=0)
        for i in range(5):
            _, _, found = batch_of([np.zeros((20, 24), np.uint8)] * 2, shape=(20, 24))
            scores.update(np.array([i, -1]), np.array([[20, 24], [1, 1]]), found)
        assert scores.seen == 5
    assert segmentation_maps._argmax._cache_size() - before == 2  # canvases of 64 x 64 and of 128 x 64


def test_canvas_is_the_batch_where_files_are_not_resized(source):
    samples, logits = np.array([0, -1], np.int32), np.zeros((2, 96, 80, 3), np.float32)
    file_sizes, canvas = segmentation_maps.file_canvas(source, samples)
    assert (file_sizes.tolist(), canvas) == ([[40, 50], [1, 1]], (64, 64))
    for size, shape in (((40, 50), (2, 96, 80)), ((20, 25), (2, 64, 64))):
        maps = segmentation_maps.file_maps(logits, np.array([size, (7, 7)]), samples, source)
        assert maps.labels.shape == shape


def test_counts_are_drained_before_they_overflow(source, predicted, monkeypatch):
    monkeypatch.setattr(confusion, "MAX_PIXELS", 2 * 64 * 64 + 1)
    scores = feed(evaluator(source), predicted)
    assert scores._total.sum() > 0 and scores._on_device is not None and scores._pixels == 2 * 64 * 64
    np.testing.assert_array_equal(scores.confusion, metrics.confusion_matrix(*pixels(source, predicted)))


def test_images_and_the_best_and_worst_of_them(rng):
    truth = [drawn_map(rng, 40, 50) for _ in range(6)]
    truth[3][:] = IGNORE
    source = LabelledSource(truth)
    predicted = [spoiled(rng, label_map) for label_map in truth]
    predicted[4] = np.where(truth[4] == IGNORE, 0, truth[4])
    scores = feed(evaluator(source, keep=2), predicted)
    expected = {}
    for i in (0, 1, 2, 4, 5):
        kept = truth[i] != IGNORE
        expected[i] = metrics.jaccard_score(truth[i][kept], predicted[i][kept], average="macro")
    images = {score.sample: score for score in scores.images}
    assert list(images) == list(expected)
    np.testing.assert_allclose([score.miou for score in images.values()], list(expected.values()), rtol=1e-6)
    kept = truth[0] != IGNORE
    assert images[0].wrong == pytest.approx(np.mean(truth[0][kept] != predicted[0][kept]), rel=1e-5)
    best, worst = scores.best_and_worst()
    ranked = sorted(expected, key=expected.get)
    assert [image.score.sample for image in worst] == ranked[:2]
    assert [image.score.sample for image in best] == ranked[::-1][:2] and best[0].score.sample == 4
    np.testing.assert_array_equal(worst[0].label_map, predicted[ranked[0]])


def test_no_image_is_both_best_and_worst(source, predicted):
    for count, shares in ((1, (1, 0)), (3, (2, 1)), (5, (3, 2))):
        best, worst = feed(evaluator(source), predicted[:count]).best_and_worst()
        assert (len(best), len(worst)) == shares
        assert not {image.score.sample for image in best} & {image.score.sample for image in worst}


def test_absent_classes_and_no_images_give_nan():
    source = LabelledSource([np.zeros((8, 8), np.uint8)])
    scores = evaluator(source)
    nothing = scores.compute()
    assert np.isnan(list(nothing.values())).all() and scores.best_and_worst() == ([], [])
    scores.update(*batch_of([np.zeros((8, 8), np.uint8)], shape=(8, 8)))
    results = scores.compute()
    assert results["mIoU"] == results["IoU/background"] == results["class_accuracy"] == 1
    assert np.isnan([results["IoU/disc"], results["accuracy/disc"], results["boundary_F"]]).all()


def test_an_unusable_label_map_is_noted_and_not_scored(source, predicted, monkeypatch):
    whole = evaluator(source, keep=0)
    rows = [0, 2]
    whole.update(*batch_of([predicted[i] for i in rows], shape=(64, 64), samples=rows))

    def label_map(index, read=source.label_map):
        if index == 1:
            raise DataError("folder/im1.png has the ids 9 (12 pixels), which are no classes.")
        return read(index)

    monkeypatch.setattr(source, "label_map", label_map)
    found = evaluator(source, keep=0)
    found.update(*batch_of(predicted[:3], shape=(64, 64)))
    chex.assert_trees_all_equal(found.compute(), whole.compute())
    assert source.problems.counts() == {"undecodable label map (not scored)": 1}
    assert "ids 9" in source.problems.summary() and source.problems.summary().count("im1") == 1


def test_what_cannot_be_scored_is_refused(source, predicted):
    with pytest.raises(ValueError, match="class 1 is 'square' in the model and 'disc' in the data set"):
        SegmentationEvaluator(source, classes=("background", "square", "disc"))
    with pytest.raises(ValueError, match="keep must be 0 or more, got -1"):
        evaluator(source, keep=-1)
    samples, sizes, found = batch_of(predicted[:2], shape=(64, 64))
    with pytest.raises(ValueError, match="sample 0 was evaluated before"):
        evaluator(source).update(np.zeros(2, int), sizes, found)
    with pytest.raises(ValueError, match="sample 8 is not in the data set 'labelled' of 5 images"):
        evaluator(source).update(samples + 8, sizes, found)
    with pytest.raises(ValueError, match="logits of 2 classes, and there are 3"):
        evaluator(source).update(samples, sizes, SegmentationMap(found.logits[..., :2]))
    found.logits[1, 0, 0, 0] = np.nan
    scores = evaluator(source)
    scores.update(samples, sizes, found)
    with pytest.raises(ValueError, match="the logits of image 'im1' are not all finite"):
        scores.compute()
