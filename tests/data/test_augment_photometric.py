"""Changes of colour against PIL and the standard library, and the order in which they are drawn."""

import collections
import colorsys
import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from segjax.data import photometric
from segjax.data.photometric import PhotometricDistort
from tests.data.painted import painted


@pytest.fixture
def image(rng):
    return rng.integers(0, 256, (20, 30, 3), np.uint8)


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.875, 1.0, 1.3, 2.0])
@pytest.mark.parametrize(("adjust", "enhancer"), [
    (photometric.adjust_brightness, ImageEnhance.Brightness),
    (photometric.adjust_contrast, ImageEnhance.Contrast),
    (photometric.adjust_saturation, ImageEnhance.Color),
])  # fmt: skip
def test_factors_are_those_of_pil(image, adjust, enhancer, factor):
    expected = np.asarray(enhancer(Image.fromarray(image)).enhance(factor)).astype(int)
    assert np.abs(adjust(image, factor).astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(adjust(image, 1.0), image)


@pytest.mark.parametrize("turn", [-0.5, -0.05, 0.0, 0.03, 0.4])
def test_hue_turns_as_in_the_standard_library(image, turn):
    image[0, :4] = [(0, 0, 0), (255, 255, 255), (80, 80, 80), (255, 0, 0)]
    expected = np.empty(image.shape)
    for at in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(image[at] / 255).tolist())
        expected[at] = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    np.testing.assert_allclose(photometric.adjust_hue(image, turn), expected * 255, atol=0.51)


def test_the_order_is_ssd_s_and_each_comes_every_second_time(image, monkeypatch):
    calls = []
    for name in ("brightness", "contrast", "saturation", "hue"):
        whole = getattr(photometric, f"adjust_{name}")
        monkeypatch.setattr(
            photometric, f"adjust_{name}", lambda image, by, n=name, f=whole: calls.append((n, by)) or f(image, by)
        )
    example = dataclasses.replace(painted(np.random.default_rng(0), 20, 30), image=image)
    counts, limits = collections.Counter(), dict(brightness=(0.875, 1.125), hue=(-0.05, 0.05))
    for seed in range(600):
        calls.clear()
        after = PhotometricDistort()(example, np.random.default_rng(seed))
        names = [name for name, _ in calls]
        early = ["brightness", "contrast", "saturation", "hue"]
        late = ["brightness", "saturation", "hue", "contrast"]
        assert names in ([n for n in order if n in names] for order in (early, late))
        for name, by in calls:
            low, high = limits.get(name, (0.5, 1.5))
            assert low <= by <= high
        counts.update(names)
        counts["early"] += "contrast" in names and "saturation" in names and names.index("contrast") < 2 and (
            names.index("contrast") < names.index("saturation")
        )  # fmt: skip
        if not names:
            same = [np.array_equal(after.image[..., i], image[..., j]) for i in range(3) for j in range(3)]
            assert sum(same) == 3  # the channels, in some order
            counts["swapped"] += not np.array_equal(after.image, image)
            counts["plain"] += 1
    assert all(250 < counts[name] < 350 for name in ("brightness", "contrast", "saturation", "hue"))
    assert 50 < counts["early"] < 100  # a quarter has both contrast and saturation, half of these in this order
    assert 0.2 < counts["swapped"] / counts["plain"] < 0.7  # half, less the one order in six that changes nothing


def test_only_the_image_changes_and_seeds_are_kept(image):
    example = dataclasses.replace(painted(np.random.default_rng(0), 20, 30), image=image)
    once, again = (PhotometricDistort()(example, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(once.image, again.image)
    assert once.boxes is example.boxes and once.image.dtype == np.uint8 and once.image.flags.c_contiguous
    assert PhotometricDistort(0.0)(example, np.random.default_rng(5)) is example
    nothing = PhotometricDistort(each=0.0)(example, np.random.default_rng(5))
    np.testing.assert_array_equal(nothing.image, image)


@pytest.mark.parametrize(
    "options", [dict(probability=2.0), dict(each=-1.0), dict(hue=(-0.6, 0.1)), dict(contrast=(2.0, 1.0))]
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"PhotometricDistort: {next(iter(options))} must"):
        PhotometricDistort(**options)
