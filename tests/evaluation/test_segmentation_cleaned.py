"""Clean-up by superpixels against means over regions in NumPy."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from sklearn import metrics

from segjax.evaluation import segmentation_cleaned
from segjax.evaluation.segmentation_cleaned import Cleaned
from segjax.types import IGNORE, SegmentationMap
from tests.evaluation.labelled import LabelledSource, drawn_map


def blocks(image):
    """Squares of 8 pixels as superpixels."""
    h, w = image.shape[:2]
    y, x = np.mgrid[:h, :w] // 8
    return (y * (w // 8 + 1) + x).astype(np.int32)


@pytest.fixture
def method(monkeypatch):
    monkeypatch.setitem(segmentation_cleaned.METHODS, "blocks", blocks)
    return "blocks"


def slow(logits, regions):
    """The class of the highest mean probability of each region, region by region."""
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    labels = np.zeros(regions.shape, int)
    for region in np.unique(regions):
        inside = regions == region
        labels[inside] = probabilities[inside].mean(0).argmax()
    return labels


@pytest.mark.parametrize("size", [(40, 50), (37, 30)])
def test_each_region_has_the_class_of_its_mean_probability(rng, method, size):
    source = LabelledSource([drawn_map(rng, *size) for _ in range(3)])
    logits = np.full((4, 48, 64, 3), 9.0, np.float32)
    logits[:, : size[0], : size[1]] = rng.normal(size=(4, *size, 3))
    scores = Cleaned(source, classes=source.classes, method=method)
    samples, sizes = np.array([2, 0, 1, -1], np.int32), np.array([size] * 3 + [(1, 1)], np.int32)
    scores.update(samples, sizes, SegmentationMap(jax.device_put(logits)))
    truth = np.concatenate([source.label_map(i).reshape(-1) for i in (2, 0, 1)])
    expected = [slow(logits[i, : size[0], : size[1]], blocks(source.image(0))).reshape(-1) for i in range(3)]
    pair = truth[truth != IGNORE], np.concatenate(expected)[truth != IGNORE]
    np.testing.assert_array_equal(scores.scores.confusion, metrics.confusion_matrix(*pair))
    shared = Cleaned(source, classes=source.classes, method=method)
    across = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("data",)), PartitionSpec("data"))
    shared.update(samples, sizes, SegmentationMap(jax.device_put(logits, across)))
    np.testing.assert_array_equal(shared.scores.confusion, scores.scores.confusion)
    results = scores.compute()
    assert results["cleaned_mIoU"] == pytest.approx(metrics.jaccard_score(*pair, average="macro"))
    assert all(name.startswith("cleaned_") for name in results) and "cleaned_IoU/disc" in results


def test_superpixels_are_those_of_the_file_whatever_the_size_of_the_batch(rng, method):
    truth = np.repeat(np.repeat(rng.integers(0, 3, (9, 12)), 8, axis=0), 8, axis=1).astype(np.uint8)
    source = LabelledSource([truth])
    scores = Cleaned(source, classes=source.classes, method=method, boundary=False)
    half = truth[::2, ::2]
    logits = np.eye(3, dtype=np.float32)[half][None]
    logits[:, ::4, ::4] = rng.normal(size=(1, 9, 12, 3)) * 3  # a pixel in sixteen is spoiled
    scores.update(np.array([0]), np.array([half.shape]), SegmentationMap(logits))
    assert scores.compute()["cleaned_mIoU"] == 1.0


def test_few_programs_whatever_the_number_of_superpixels(rng, method):
    source = LabelledSource([drawn_map(rng, 8 * k, 40) for k in (4, 5, 6, 7)])
    before = segmentation_cleaned._cleaned._cache_size()
    scores = Cleaned(source, classes=source.classes, method=method, boundary=False)
    for i in range(4):
        size = np.array([source.label_map(i).shape])
        scores.update(np.array([i]), size, SegmentationMap(np.zeros((1, 64, 64, 3), np.float32)))
    assert segmentation_cleaned._cleaned._cache_size() - before == 2  # 24 to 42 superpixels: 32 and 64


def test_every_method_of_the_library_cleans_a_noisy_image(rng):
    truth = drawn_map(rng, 64, 80, void=False)
    source = LabelledSource([truth])
    logits = np.eye(3, dtype=np.float32)[truth] + rng.normal(scale=0.6, size=(64, 80, 3)).astype(np.float32)
    noisy = np.mean(logits.argmax(-1) == truth)
    for method in segmentation_cleaned.METHODS:
        scores = Cleaned(source, classes=source.classes, method=method, boundary=False)
        scores.update(np.array([0]), np.array([[64, 80]]), SegmentationMap(logits[None]))
        assert scores.compute()["cleaned_pixel_accuracy"] > noisy + 0.05, method


def test_an_unknown_method_is_refused(method):
    source = LabelledSource([np.zeros((8, 8), np.uint8)])
    with pytest.raises(ValueError, match="there is no method 'magic' to clean up by; there are .*blocks"):
        Cleaned(source, classes=source.classes, method="magic")
