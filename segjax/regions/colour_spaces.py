"""Colour spaces of different invariance to light, for grouping regions: uint8 images in, uint8 images out.

The eight of selective search (Uijlings et al. 2013, section 3.2). Each function takes RGB, uint8 [h w 3], and gives
uint8 [h w c] with one to three channels, each scaled from the range that 8-bit RGB can give it to 0..255.
`COLOUR_SPACES` has them by name.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float, UInt8

RGB = UInt8[np.ndarray, "h w 3"]
Channels = UInt8[np.ndarray, "h w c"]


def rgb(image: RGB) -> Channels:
    """As it is: no invariance."""
    return image


def intensity(image: RGB) -> Channels:
    """Luma alone: no invariance, and no colour."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


def lab(image: RGB) -> Channels:
    """CIELAB, lightness and two opponent colours: its distances are nearly those that people see."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2LAB)


def hsv(image: RGB) -> Channels:
    """Hue, saturation, value: hue and saturation do not change with shadows."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)


def hue(image: RGB) -> Channels:
    """Hue alone: changes with neither shadows nor highlights. 0, which is red, where there is no colour."""
    return hsv(image)[..., :1]


def normalized_rgb(image: RGB) -> Channels:
    """Shares of red, green and blue, which do not change with shadows; a third each in black."""
    return _bytes(_shares(image) * 255)


def rgi(image: RGB) -> Channels:
    """Shares of red and green, and intensity."""
    return np.concatenate([normalized_rgb(image)[..., :2], intensity(image)], axis=-1)


def opponent_ratio(image: RGB) -> Channels:
    """Two opponent colours divided by intensity: van de Sande et al. (2010), section 3.3, call it C.

    O1 / O3 and O2 / O3 with O1 = (R - G) / sqrt 2, O2 = (R + G - 2 B) / sqrt 6, O3 = (R + G + B) / sqrt 3.
    """
    red, green, blue = np.moveaxis(_shares(image), -1, 0)
    # In shares r + g + b = 1, so that r - g lies in -1..1 and r + g - 2 b in -2..1.
    return _bytes(np.stack([(red - green + 1) / 2, (red + green - 2 * blue + 2) / 3], axis=-1) * 255)


COLOUR_SPACES: dict[str, Callable[[RGB], Channels]] = {
    "rgb": rgb,
    "intensity": intensity,
    "lab": lab,
    "rgi": rgi,
    "hsv": hsv,
    "normalized_rgb": normalized_rgb,
    "opponent_ratio": opponent_ratio,
    "hue": hue,
}
"""Name -> image to channels."""


def _shares(image: RGB) -> Float[np.ndarray, "h w 3"]:
    values = image.astype(np.float64)
    total = values.sum(axis=-1, keepdims=True)
    return np.where(total > 0, values / np.where(total > 0, total, 1), 1 / 3)


def _bytes(values: Float[np.ndarray, "h w c"]) -> Channels:
    return np.round(values).astype(np.uint8)
