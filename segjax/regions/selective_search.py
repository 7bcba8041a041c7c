"""Region proposals by selective search: boxes of the regions that hierarchical groupings of an image pass through.

Uijlings et al. 2013, "Selective Search for Object Recognition". Nothing is learnt. An image is cut into small regions
by colour (Felzenszwalb and Huttenlocher 2004), which are joined step by step (`segjax.regions.grouping`); the box of
every region on the way is a proposal. A *strategy* is a colour space, a fineness of the first regions and what makes
two regions alike; several of them find what one would miss.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from segjax.regions.colour_spaces import COLOUR_SPACES
from segjax.regions.features import RegionFeatures, colour_bins, region_features, texture_bins
from segjax.regions.grouping import check_similarities, group
from segjax.superpixels import felzenszwalb

SIGMA = 0.8
"""Of the Gaussian that smooths an image before it is cut up, in pixels; the paper's."""


@dataclasses.dataclass(frozen=True)
class Strategy:
    """One way to group an image. `ValueError` for what there is not."""

    colour_space: str = "hsv"
    """A name in `segjax.regions.colour_spaces.COLOUR_SPACES`, for the first regions and for the histograms."""
    similarities: str = "CTSF"
    """Letters of colour, texture, size and fill, each once at most."""
    k: int = 100
    """Of the first regions: larger values make them larger. Also the pixels that a region has at least."""

    def __post_init__(self) -> None:
        if self.colour_space not in COLOUR_SPACES:
            raise ValueError(f"no colour space is called {self.colour_space!r}; there are {', '.join(COLOUR_SPACES)}")
        check_similarities(self.similarities)
        if self.k < 1:
            raise ValueError(f"k={self.k} must be at least 1")


def strategies(colour_spaces: Sequence[str], similarities: Sequence[str], ks: Sequence[int]) -> tuple[Strategy, ...]:
    """Every combination of these."""
    return tuple(Strategy(*choice) for choice in itertools.product(colour_spaces, similarities, ks))


MODES: dict[str, tuple[Strategy, ...]] = {
    "single": (Strategy(),),
    "fast": strategies(("hsv", "lab"), ("CTSF", "TSF"), (50, 100)),
    "quality": strategies(("hsv", "lab", "rgi", "hue", "intensity"), ("CTSF", "TSF", "F", "S"), (50, 100, 150, 300)),
}
"""The paper's choices of 1, 8 and 80 strategies (table 5)."""


def selective_search(
    image: UInt8[np.ndarray, "h w 3"],
    *,
    using: Sequence[Strategy] = MODES["fast"],
    count: int = 2000,
    min_side: float | int = 0,
    max_side: int = 500,
    seed: int | Sequence[int] = 0,
) -> Float32[np.ndarray, "p 4"]:
    """Boxes around the regions of all strategies, `xyxy` in pixels of the image, each once, best first.

    The order is the paper's (section 3.3): a region's place in its hierarchy, 1 for the whole image, times a random
    number between 0 and 1, lowest first, so that large regions come early without all going before the small ones.

    Args:
        image: RGB. Repeat the one channel of a grey image three times.
        using: the strategies.
        count: the most boxes returned.
        min_side: boxes that are narrower or lower than this are left out, in pixels.
        max_side: a larger image is made smaller until its longer side has this many pixels, for the time and since `k`
            is in pixels.
        seed: of the random numbers. The same image, strategies and seed give the same boxes.

    Raises:
        ValueError: the image has no pixels or no three bytes a pixel, there is no strategy, or `count` or `max_side` is
            below 1.
    """
    _check(image, using, count=count, max_side=max_side)
    height, width = image.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    if scale < 1:
        smaller = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    boxes, places = _search(image, using, np.random.default_rng(seed))
    boxes = _unique(boxes[np.argsort(places, kind="stable")])
    boxes = boxes * (np.array([width, height] * 2) / np.array(image.shape[1::-1] * 2))
    wide = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) >= min_side
    return boxes[wide][:count].astype(np.float32)


def _search(
    image: UInt8[np.ndarray, "h w 3"], using: Sequence[Strategy], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes int [n 4] of all regions of all strategies, and each one's place times its random number."""

    # Strategies share what they have in common: pixels of a colour space, first regions of a colour space and a k.
    @functools.cache
    def pixels(space: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        channels = COLOUR_SPACES[space](image)
        return _three(channels), colour_bins(channels), texture_bins(channels)

    @functools.cache
    def first(space: str, k: int) -> RegionFeatures:
        shown, colour, texture = pixels(space)
        return region_features(felzenszwalb(shown, scale=float(k), sigma=SIGMA, min_size=k), colour, texture)

    boxes, places = [], []
    for strategy in using:
        found = group(first(strategy.colour_space, strategy.k), strategy.similarities).boxes
        boxes.append(found)
        places.append(np.arange(len(found), 0, -1) * rng.random(len(found)))
    return np.concatenate(boxes), np.concatenate(places)


def _three(channels: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
    """One channel three times; two and an empty one."""
    if channels.shape[-1] == 1:
        return np.repeat(channels, 3, axis=-1)
    return np.pad(channels, ((0, 0), (0, 0), (0, 3 - channels.shape[-1])))


def _unique(boxes: np.ndarray) -> np.ndarray:
    """Each box where it comes first."""
    return boxes[np.sort(np.unique(boxes, axis=0, return_index=True)[1])]


def _check(image: np.ndarray, using: Sequence[Strategy], **positive: int) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(
            f"selective_search: the image, {image.dtype} of shape {list(image.shape)}, must be uint8 [h w 3] with "
            "pixels; repeat the one channel of a grey image three times"
        )
    if not using:
        raise ValueError("selective_search: `using` names no strategy")
    for name, value in positive.items():
        if value < 1:
            raise ValueError(f"selective_search: {name}={value} must be at least 1")
