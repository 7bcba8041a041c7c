"""Grouping joins what a plain transcription of the paper's algorithm joins, and in that order."""

import itertools

import numpy as np
import pytest

from segjax.regions.features import colour_bins, neighbours, region_features, texture_bins
from segjax.regions.grouping import group


def similarity(masks, a, b, colour, texture, letters):
    """The four of Uijlings et al. 2013, section 3.2, from the pixels of two regions."""
    pixels, total = masks[a].size, 0.0
    both = masks[a] | masks[b]
    for letter, bins, count in (("C", colour, 25), ("T", texture, 10)):
        if letter in letters:
            for feature in np.moveaxis(bins, -1, 0):
                first, second = (np.bincount(feature[masks[i]], minlength=count) / masks[i].sum() for i in (a, b))
                total += sum(min(p, q) for p, q in zip(first, second)) / bins.shape[-1]
    if "S" in letters:
        total += 1 - both.sum() / pixels
    if "F" in letters:
        y, x = np.nonzero(both)
        total += 1 - ((np.ptp(y) + 1) * (np.ptp(x) + 1) - both.sum()) / pixels
    return total


def plain_grouping(regions, colour, texture, letters):
    """Every pair of neighbours is compared anew, from its pixels, before every step."""
    masks = {number: regions == number for number in range(regions.max() + 1)}
    joined, boxes = [], []
    for number in itertools.count(len(masks)):
        boxes += [box(masks[i]) for i in sorted(masks) if i >= len(boxes)]
        if len(masks) == 1:
            return np.array(boxes), np.array(joined).reshape(-1, 2)
        now = np.zeros_like(regions)
        for i, mask in masks.items():
            now[mask] = i
        pairs = neighbours(now).tolist()
        _, a, b = min((-similarity(masks, a, b, colour, texture, letters), a, b) for a, b in pairs)
        masks[number] = masks.pop(a) | masks.pop(b)
        joined.append((a, b))


def box(mask):
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def noisy_regions(seed, *, size=(14, 17), count=9):
    """Regions about random seeds, of their own colours with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(size)
    regions = np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in rng.uniform(0, size, (count, 2))], axis=0)
    regions = np.unique(regions, return_inverse=True)[1].reshape(size)
    image = rng.uniform(40, 216, (count, 3))[regions] + rng.normal(0, 25, (*size, 3))
    return regions, np.clip(image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("letters", ["CTSF", "TSF", "C", "T", "S", "F", "FC"])
@pytest.mark.parametrize("seed", range(3))
def test_grouping_is_the_plain_one(letters, seed):
    regions, image = noisy_regions(seed)
    colour, texture = colour_bins(image), texture_bins(image)
    boxes, joined = plain_grouping(regions, colour, texture, letters)
    found = group(region_features(regions, colour, texture), letters)
    np.testing.assert_array_equal(found.joined, joined)
    np.testing.assert_array_equal(found.boxes, boxes)
    assert found.boxes[-1].tolist() == [0, 0, 17, 14]


def test_of_equally_alike_pairs_the_lowest_numbers_go_first():
    regions = np.repeat(np.arange(4), 2)[None, :] * np.ones((2, 1), int)  # four columns of the same size and colour
    flat = np.full((2, 8, 3), 80, np.uint8)
    found = group(region_features(regions, colour_bins(flat), texture_bins(flat)), "CTSF")
    assert found.joined.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert found.boxes.tolist() == [[0, 0, 2, 2], [2, 0, 4, 2], [4, 0, 6, 2], [6, 0, 8, 2],
                                    [0, 0, 4, 2], [4, 0, 8, 2], [0, 0, 8, 2]]  # fmt: skip


def test_one_region_is_a_hierarchy():
    flat = np.full((3, 4, 3), 80, np.uint8)
    found = group(region_features(np.zeros((3, 4), int), colour_bins(flat), texture_bins(flat)), "CTSF")
    assert found.boxes.tolist() == [[0, 0, 4, 3]] and found.joined.shape == (0, 2)


@pytest.mark.parametrize("letters", ["", "X", "CC", "ctsf"])
def test_letters_that_are_none(letters):
    flat = np.full((3, 4, 3), 80, np.uint8)
    features = region_features(np.zeros((3, 4), int), colour_bins(flat), texture_bins(flat))
    with pytest.raises(ValueError, match=r"one or more of the letters C \(colour\)"):
        group(features, letters)
