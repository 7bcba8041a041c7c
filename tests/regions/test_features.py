"""Histograms, neighbours, sizes and boxes of regions, against loops over pixels."""

import numpy as np
import pytest

from segjax.regions.features import colour_bins, histograms, neighbours, region_features, texture_bins


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (10, 13, 2), dtype=np.uint8)


@pytest.fixture
def regions(rng):
    """Regions around five seeds, in no order."""
    y, x = np.indices((10, 13))
    seeds = rng.uniform(0, 10, (5, 2))
    return np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in seeds], axis=0)


def test_colour_bins_split_the_bytes_evenly():
    bins = colour_bins(np.arange(256, dtype=np.uint8)[None, :, None]).ravel()
    assert bins.tolist() == [int(value / 256 * 25) for value in range(256)]
    assert set(np.bincount(bins).tolist()) == {10, 11}


def test_texture_bins_are_those_of_gaussian_derivatives(image):
    radius = 4
    offsets = np.arange(-radius, radius + 1)
    bell = np.exp(-(offsets**2) / 2)
    bell /= bell.sum()
    found = texture_bins(image)
    assert found.shape == (10, 13, 16)
    for channel in range(2):
        padded = np.pad(image[..., channel].astype(float), radius, mode="symmetric")
        for y, x in np.ndindex(10, 13):
            window = padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1]
            # The derivative of a convolution with g is the convolution with g': weights offset * g(offset).
            across, down = bell @ window @ (offsets * bell), (offsets * bell) @ window @ bell
            for i in range(8):
                slope = across * np.cos(i * np.pi / 4) + down * np.sin(i * np.pi / 4)
                if abs(slope / 10 - round(slope / 10)) > 1e-3:
                    assert found[y, x, 8 * channel + i] == min(max(int(np.floor(slope / 10)), 0), 9)


def test_texture_of_an_edge_has_its_direction():
    edge = np.zeros((20, 20, 1), np.uint8)
    edge[:, 10:] = 255
    middle = texture_bins(edge)[10, 9]
    assert middle[0] == 9 and middle[4] == 0 and middle[2] == middle[6] == 0 and middle[1] == middle[7] == 6
    assert (texture_bins(edge)[10, 0] == 0).all()


def test_histograms_count_the_pixels_of_each_region(image, regions):
    bins = colour_bins(image)
    sizes = np.bincount(regions.ravel(), minlength=5)
    found = histograms(regions, sizes, bins, 25)
    wanted = np.zeros((5, 50))
    for y, x, channel in np.ndindex(image.shape):
        wanted[regions[y, x], 25 * channel + bins[y, x, channel]] += 1 / (2 * sizes[regions[y, x]])
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    # What grouping relies on: two regions together have the mean of their histograms, weighted by size.
    joined = np.where(regions == 4, 2, regions)
    both = histograms(joined, np.bincount(joined.ravel()), bins, 25)[2]
    np.testing.assert_allclose(both, (sizes[2] * found[2] + sizes[4] * found[4]) / (sizes[2] + sizes[4]))


def test_neighbours_share_an_edge(regions):
    wanted = set()
    for y, x in np.ndindex(regions.shape):
        for v, u in ((y + 1, x), (y, x + 1)):
            if v < 10 and u < 13 and regions[y, x] != regions[v, u]:
                wanted.add(tuple(sorted((int(regions[y, x]), int(regions[v, u])))))
    assert list(map(tuple, neighbours(regions).tolist())) == sorted(wanted)
    assert neighbours(np.array([[0, 1], [2, 0]])).tolist() == [[0, 1], [0, 2]]  # 1 and 2 meet at a corner alone
    assert neighbours(np.zeros((3, 4), int)).shape == (0, 2)


def test_features_of_regions(image, regions):
    found = region_features(regions, colour_bins(image), texture_bins(image))
    assert found.pixels == 130 and found.colour.shape == (5, 50) and found.texture.shape == (5, 160)
    for number in range(5):
        y, x = np.nonzero(regions == number)
        assert found.sizes[number] == len(y)
        assert found.boxes[number].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
