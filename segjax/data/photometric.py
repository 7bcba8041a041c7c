"""Changes of colour: functions of one image with an amount, and the random order of them that SSD trains with.

Each gives bytes, clipped and rounded to the nearest, by the formulas of PIL and torchvision.
"""

import dataclasses

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from segjax.data.augment import check_range, check_share
from segjax.data.source import Example
from segjax.data.transforms import GRAY

Picture = UInt8[np.ndarray, "h w 3"]
LEVELS = np.arange(256, dtype=np.float32)


def adjust_brightness(image: Picture, factor: float) -> Picture:
    """The image times `factor`."""
    return _by_table(image, LEVELS * np.float32(factor))


def adjust_contrast(image: Picture, factor: float) -> Picture:
    """The image's difference from the mean of its grey version times `factor`."""
    mean = np.float32(np.dot(cv2.mean(image)[:3], GRAY))
    return _by_table(image, (LEVELS - mean) * np.float32(factor) + mean)


def adjust_saturation(image: Picture, factor: float) -> Picture:
    """The image's difference from its grey version times `factor`."""
    factor = np.float32(factor)
    return cv2.transform(image, factor * np.eye(3, dtype=np.float32) + (1 - factor) * np.tile(GRAY, (3, 1)))


def adjust_hue(image: Picture, turn: float) -> Picture:
    """The image with the hue (of hue, saturation and value) turned by `turn` of the whole circle of colours."""
    colours = cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2HSV)
    # OpenCV takes hues above 360 degrees for what they are beyond them, but not those below 0.
    turned = cv2.add(colours, (turn % 1 * 360, 0, 0, 0))
    return cv2.convertScaleAbs(cv2.cvtColor(turned, cv2.COLOR_HSV2RGB))


def _by_table(image: Picture, values: Float[np.ndarray, "256"]) -> Picture:
    return cv2.LUT(image, np.clip(np.rint(values), 0, 255).astype(np.uint8))


@dataclasses.dataclass(frozen=True)
class PhotometricDistort:
    """Random brightness, contrast, saturation, hue and order of the channels, each of them every second time.

    The distortions of SSD (Liu et al. 2016, section 2.2, after Howard 2013), in its order: brightness, contrast,
    saturation, hue, or contrast after these two, then the channels. The ranges are torchvision's, whose brightness is a
    factor where SSD's is a sum.
    """

    probability: float = 1.0
    """Of any change at all."""
    each: float = 0.5
    """Of each of the five, where there is any."""
    brightness: tuple[float, float] = (0.875, 1.125)
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: tuple[float, float] = (-0.05, 0.05)
    """In turns of the circle of colours."""

    def __post_init__(self) -> None:
        for name in ("probability", "each"):
            check_share(f"PhotometricDistort: {name}", getattr(self, name))
        for name in ("brightness", "contrast", "saturation"):
            check_range(f"PhotometricDistort: {name}", getattr(self, name), 0.0, np.inf)
        check_range("PhotometricDistort: hue", self.hue, -0.5, 0.5)

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        # All numbers are drawn, used or not, so that what comes later does not depend on what was.
        ranges = (self.brightness, self.contrast, self.saturation, self.hue)
        brightness, contrast, saturation, hue = (rng.uniform(*limits) for limits in ranges)
        lighter, starker, purer, turned, swapped = rng.random(5) < self.each
        early, channels = rng.random() < 0.5, rng.permutation(3)
        image = example.image
        if lighter:
            image = adjust_brightness(image, brightness)
        if starker and early:
            image = adjust_contrast(image, contrast)
        if purer:
            image = adjust_saturation(image, saturation)
        if turned:
            image = adjust_hue(image, hue)
        if starker and not early:
            image = adjust_contrast(image, contrast)
        if swapped:
            image = cv2.transform(image, np.eye(3, dtype=np.float32)[channels])
        return dataclasses.replace(example, image=image)
