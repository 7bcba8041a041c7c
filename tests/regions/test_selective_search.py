"""Selective search: objects are among its boxes, in the paper's order, and the same image gives the same boxes."""

import numpy as np
import pytest

from segjax.regions import selective_search as module
from segjax.regions.colour_spaces import COLOUR_SPACES
from segjax.regions.features import colour_bins, region_features, texture_bins
from segjax.regions.grouping import group
from segjax.regions.selective_search import MODES, Strategy, selective_search, strategies
from segjax.superpixels import felzenszwalb
from tests.oracles import iou

BOX = (12, 15, 42, 33)


@pytest.fixture(scope="module")
def scene():
    """A red box and a yellow disc on blue ground, with noise."""
    rng = np.random.default_rng(0)
    y, x = np.indices((60, 80))
    image = np.full((60, 80, 3), (30, 40, 160), float)
    image[BOX[1] : BOX[3], BOX[0] : BOX[2]] = (200, 30, 40)
    image[(y - 42) ** 2 + (x - 60) ** 2 < 100] = (220, 210, 60)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def rows(boxes):
    return [tuple(row) for row in boxes.tolist()]


@pytest.mark.parametrize("mode", ["single", "fast"])
def test_objects_are_among_the_boxes(scene, mode):
    boxes = selective_search(scene, using=MODES[mode])
    assert boxes.dtype == np.float32 and boxes.shape[1:] == (4,)
    assert max(iou(box, BOX) for box in rows(boxes)) > 0.9
    assert max(iou(box, (51, 33, 70, 52)) for box in rows(boxes)) > 0.9
    assert (0, 0, 80, 60) in rows(boxes)
    assert len(set(rows(boxes))) == len(boxes)
    assert (boxes >= 0).all() and (boxes[:, 2:] <= [80, 60]).all() and (boxes[:, 2:] > boxes[:, :2]).all()


def test_every_colour_space_finds_the_box_it_can_see(scene):
    for space in COLOUR_SPACES:
        boxes = selective_search(scene, using=[Strategy(space, "CTSF", 50)])
        assert max(iou(box, BOX) for box in rows(boxes)) > 0.9, space


def test_the_order_is_place_times_a_random_number(scene):
    using = strategies(("lab", "intensity"), ("CTSF", "S"), (30, 60))
    rng, listed = np.random.default_rng([4, 2]), []
    for strategy in using:
        channels = COLOUR_SPACES[strategy.colour_space](scene)
        seen = np.repeat(channels, 3, axis=-1) if channels.shape[-1] == 1 else channels
        regions = felzenszwalb(seen, scale=float(strategy.k), sigma=0.8, min_size=strategy.k)
        features = region_features(regions, colour_bins(channels), texture_bins(channels))
        boxes = group(features, strategy.similarities).boxes
        random = rng.random(len(boxes))
        # The last region joined, the whole image, is at place 1.
        listed += [((len(boxes) - i) * random[i], tuple(boxes[i].tolist())) for i in range(len(boxes))]
    wanted = list(dict.fromkeys(box for _, box in sorted(listed, key=lambda one: one[0])))
    assert len(wanted) < len(listed)  # strategies find the same boxes
    found = selective_search(scene, using=using, seed=[4, 2])
    assert rows(found) == wanted
    wide = [box for box in wanted if box[2] - box[0] >= 20 and box[3] - box[1] >= 20]
    assert 0 < len(wide) < len(wanted)
    assert rows(selective_search(scene, using=using, seed=[4, 2], min_side=20)) == wide
    assert rows(selective_search(scene, using=using, seed=[4, 2], min_side=20, count=5)) == wide[:5]


def test_the_seed_changes_the_order_alone(scene):
    one, again, other = (selective_search(scene, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert rows(one) != rows(other) and set(rows(one)) == set(rows(other))


def test_what_strategies_share_is_made_once(scene, monkeypatch):
    made = []
    monkeypatch.setattr(
        module, "felzenszwalb", lambda image, **options: made.append(options) or felzenszwalb(image, **options)
    )
    selective_search(scene)
    assert len(MODES["fast"]) == 8 and len(made) == 4


def test_modes_are_those_of_the_paper():
    assert {name: len(mode) for name, mode in MODES.items()} == {"single": 1, "fast": 8, "quality": 80}
    assert MODES["single"] == (Strategy("hsv", "CTSF", 100),)
    assert {s.colour_space for s in MODES["fast"]} == {"hsv", "lab"} and {s.k for s in MODES["fast"]} == {50, 100}
    assert set(MODES["fast"]) < set(MODES["quality"]) and len(set(MODES["quality"])) == 80


def test_large_images_are_searched_smaller(scene):
    large = scene.repeat(3, axis=0).repeat(3, axis=1)
    small, scaled = selective_search(scene, max_side=80), selective_search(large, max_side=80)
    np.testing.assert_array_equal(scaled, small * 3)  # three by three pixels of one colour have that mean
    assert selective_search(np.zeros((1, 900, 3), np.uint8), max_side=100).tolist() == [[0, 0, 900, 1]]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 9), (40, 56)])
def test_an_image_of_one_colour_is_one_region(size):
    boxes = selective_search(np.full((*size, 3), 90, np.uint8))
    assert boxes.tolist() == [[0, 0, size[1], size[0]]]
    assert selective_search(np.full((*size, 3), 90, np.uint8), min_side=100).shape == (0, 4)


def test_tiny_and_grey_images(rng):
    for size in ((1, 1), (2, 2), (3, 5), (1, 30)):
        boxes = selective_search(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        assert (0, 0, size[1], size[0]) in rows(boxes)
    grey = np.full((50, 50, 3), 60, np.uint8)
    grey[10:30, 20:45] = 190
    assert max(iou(box, (20, 10, 45, 30)) for box in rows(selective_search(grey))) == 1


def test_what_cannot_be_searched():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="no colour space is called 'cmyk'; there are rgb, "):
        Strategy("cmyk")
    with pytest.raises(ValueError, match="similarities 'CX' must be"):
        Strategy("lab", "CX")
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        Strategy("lab", "CTSF", 0)
    with pytest.raises(ValueError, match="`using` names no strategy"):
        selective_search(image, using=())
    with pytest.raises(ValueError, match="count=0 must be at least 1"):
        selective_search(image, count=0)
    with pytest.raises(ValueError, match=r"uint8 of shape \[0, 4, 3\], must be uint8 \[h w 3\] with pixels"):
        selective_search(image[:0])
    # Shape and type are checked by annotations in tests, and by a sentence where those are not enforced.
    with pytest.raises(ValueError, match="repeat the one channel of a grey image three times"):
        module._check(image[..., 0], MODES["fast"])
    with pytest.raises(ValueError, match=r"float64 of shape \[4, 4, 3\]"):
        module._check(image / 255, MODES["fast"])
