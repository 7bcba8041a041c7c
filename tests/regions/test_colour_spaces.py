"""Colour spaces: equal to scikit-image's and to their definitions, and invariant to light where they should be."""

import math

import numpy as np
import pytest
import skimage.color

from segjax.regions.colour_spaces import COLOUR_SPACES

CHANNELS = {"rgb": 3, "intensity": 1, "lab": 3, "rgi": 3, "hsv": 3, "normalized_rgb": 3, "opponent_ratio": 2, "hue": 1}


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (9, 11, 3), dtype=np.uint8)


def test_all_have_their_channels_and_take_black_white_and_one_pixel(image):
    assert COLOUR_SPACES.keys() == CHANNELS.keys()
    for name, count in CHANNELS.items():
        for given in (image, np.zeros((1, 1, 3), np.uint8), np.full((2, 1, 3), 255, np.uint8)):
            found = COLOUR_SPACES[name](given)
            assert found.dtype == np.uint8 and found.shape == (*given.shape[:2], count)


def test_those_that_scikit_image_has(image):
    near = {"hsv": skimage.color.rgb2hsv(image) * 255, "hue": skimage.color.rgb2hsv(image)[..., :1] * 255}
    near["lab"] = skimage.color.rgb2lab(image) * [2.55, 1, 1] + [0, 128, 128]
    near["intensity"] = image @ np.array([0.299, 0.587, 0.114])[:, None]
    for name, wanted in near.items():
        apart = np.abs(COLOUR_SPACES[name](image).astype(float) - wanted)
        if name in ("hsv", "hue"):  # a whole turn of hue is no difference
            apart[..., 0] = np.minimum(apart[..., 0], 256 - apart[..., 0])
        assert apart.max() <= 1.6, name


def test_shares_and_opponent_colours_by_definition(image):
    for y, x in np.ndindex(image.shape[:2]):
        r, g, b = (float(value) for value in image[y, x])
        shares = np.array([r, g, b]) / (r + g + b) * 255
        assert np.abs(COLOUR_SPACES["normalized_rgb"](image)[y, x] - shares).max() <= 0.5
        assert np.abs(COLOUR_SPACES["rgi"](image)[y, x, :2] - shares[:2]).max() <= 0.5
        o1, o2, o3 = (r - g) / math.sqrt(2), (r + g - 2 * b) / math.sqrt(6), (r + g + b) / math.sqrt(3)
        # The two ratios, from their own least and greatest values (pure colours) to 0..255.
        ranges = ((-math.sqrt(1.5), math.sqrt(1.5)), (-math.sqrt(2), math.sqrt(0.5)))
        wanted = [(o / o3 - low) / (high - low) * 255 for o, (low, high) in zip((o1, o2), ranges)]
        assert np.abs(COLOUR_SPACES["opponent_ratio"](image)[y, x] - wanted).max() <= 0.5 + 1e-6


def test_invariance_to_shadow_and_highlight(rng):
    lit = rng.integers(30, 60, (8, 8, 3), dtype=np.uint8) * 4
    shadow, highlight = lit // 2, lit // 2 + 60
    for name in ("hue", "normalized_rgb", "opponent_ratio"):
        apart = COLOUR_SPACES[name](lit).astype(int) - COLOUR_SPACES[name](shadow)
        assert np.abs(apart).max() <= 1, name
    apart = COLOUR_SPACES["hue"](shadow).astype(int) - COLOUR_SPACES["hue"](highlight)
    assert np.abs(apart).max() <= 1
    assert np.abs(COLOUR_SPACES["lab"](lit).astype(int) - COLOUR_SPACES["lab"](shadow)).max() > 20
