"""Regions of colour: whole, numbered without gaps, the same every time, and bounded by the edges one can see."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from segjax import superpixels
from segjax.data.proposals import write_proposals

SIZE = (40, 56)


@pytest.fixture
def scene(rng):
    """A blue ground with a red box and a yellow disc, and noise; which of the three each pixel is."""
    y, x = np.indices(SIZE)
    what = np.zeros(SIZE, int)
    what[6:20, 5:25] = 1
    what[(y - 26) ** 2 + (x - 40) ** 2 < 100] = 2
    colours = np.array([[30, 40, 160], [200, 30, 40], [220, 210, 60]])
    return np.clip(colours[what] + rng.normal(0, 4, (*SIZE, 3)), 0, 255).astype(np.uint8), what


@pytest.mark.parametrize("name", superpixels.METHODS)
def test_regions_follow_the_edges(name, scene):
    image, what = scene
    regions = superpixels.METHODS[name](image)
    assert regions.dtype == np.int32 and regions.shape == SIZE
    count = regions.max() + 1
    np.testing.assert_array_equal(np.unique(regions), np.arange(count))
    assert 3 <= count < 400
    table = np.zeros((count, 3), int)
    np.add.at(table, (regions.ravel(), what.ravel()), 1)
    # Nearly every pixel is what most of its region is.
    assert table.max(axis=1).sum() > 0.97 * what.size
    np.testing.assert_array_equal(superpixels.METHODS[name](image.copy()), regions)


@pytest.mark.parametrize("name", superpixels.METHODS)
def test_an_image_of_one_colour(name):
    regions = superpixels.METHODS[name](np.full((*SIZE, 3), 90, np.uint8))
    np.testing.assert_array_equal(np.unique(regions), np.arange(regions.max() + 1))
    if name != "slic":  # which keeps its grid
        assert regions.max() == 0


def test_options_do_what_they_say(scene):
    image, _ = scene
    count = {n: superpixels.slic(image, regions=n).max() + 1 for n in (20, 120)}
    assert 10 <= count[20] <= 30 and 60 <= count[120] <= 180
    coarse = superpixels.felzenszwalb(image, scale=1000.0, min_size=100)
    assert np.bincount(coarse.ravel()).min() >= 100
    noisy = superpixels.mean_shift(image, colour=4.0, min_size=1)
    tidy = superpixels.mean_shift(image, colour=4.0, min_size=30)
    assert tidy.max() < noisy.max() and np.bincount(tidy.ravel()).min() >= 30
    # Regions of the mean shift are connected.
    for i in range(tidy.max() + 1):
        assert scipy.ndimage.label(tidy == i)[1] == 1


def test_small_regions_go_to_the_nearest_in_colour():
    regions = np.array([[0, 0, 1, 2, 2]])
    colours = np.array([10.0, 10, 50, 60, 60])[None, :, None]
    np.testing.assert_array_equal(superpixels._without_small(regions, colours, 2), [[0, 0, 1, 1, 1]])
    np.testing.assert_array_equal(superpixels._without_small(regions, colours, 9), np.zeros((1, 5)))


def test_boxes_and_masks(scene, tmp_path):
    regions = np.array([[0, 0, 2], [1, 0, 2], [1, 1, 2]])
    boxes, areas = superpixels.region_boxes(regions)
    np.testing.assert_array_equal(boxes, [[0, 0, 2, 2], [0, 1, 2, 3], [2, 0, 3, 3]])
    np.testing.assert_array_equal(areas, [3, 3, 3])
    masks = superpixels.region_masks(regions)
    assert masks.shape == (3, 3, 3) and masks.dtype == bool
    np.testing.assert_array_equal(masks.argmax(axis=0), regions)
    np.testing.assert_array_equal(superpixels.region_boxes(np.array([[0, 2]]))[0][1], np.zeros(4))

    boxes, areas = superpixels.region_boxes(superpixels.felzenszwalb(scene[0]))
    best = np.argsort(-areas, kind="stable")
    write_proposals(tmp_path / "regions.npz", [7], [boxes[best]], [areas[best]])
    with np.load(tmp_path / "regions.npz") as file:
        assert file["scores"][0] == areas.max() and len(file["boxes"]) == len(boxes)
        # The red box is one of them.
        assert (np.abs(file["boxes"] - [5, 6, 25, 20]).max(axis=1) <= 2).any()


def test_clean_up_mends_a_noisy_answer(scene, rng):
    image, what = scene
    scores = np.eye(3)[what] + rng.normal(0, 0.7, (*SIZE, 3))
    regions = superpixels.felzenszwalb(image)
    clean = superpixels.clean_up(scores.astype(np.float32), regions)
    before, after = ((np.asarray(a).argmax(axis=-1) == what).mean() for a in (scores, clean))
    assert before < 0.9 and after > 0.97
    np.testing.assert_allclose(clean[8, 8], scores[regions == regions[8, 8]].mean(axis=0), rtol=1e-4, atol=1e-5)
    one = superpixels.clean_up(jnp.ones((2, 2, 1)), np.zeros((2, 2), np.int32))
    np.testing.assert_array_equal(one, np.ones((2, 2, 1)))


def test_bad_options_are_named():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="slic: regions=0 must be above 0"):
        superpixels.slic(image, regions=0)
    with pytest.raises(ValueError, match="felzenszwalb: the image of 0 x 4 has no pixels"):
        superpixels.felzenszwalb(image[:0])
