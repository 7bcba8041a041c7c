"""What selective search knows of regions: sizes, boxes, neighbours, histograms of colour and of texture.

Uijlings et al. 2013, section 3.2. A histogram is normalised to a sum of 1, so that of two joined regions is the mean of
theirs, weighted by size, and an image is read once however often its regions are joined.
"""

import dataclasses

import numpy as np
import scipy.ndimage
from jaxtyping import Float, Int, UInt8

from segjax.superpixels import region_boxes

COLOUR_BINS = 25
TEXTURE_BINS = 10
ORIENTATIONS = 8
TEXTURE_SIGMA = 1.0
TEXTURE_STEP = 10.0
"""Width of a texture bin, in grey levels a pixel. The Gaussian derivative at a step from 0 to 255 is about 100, so that
ten bins of this width hold what an image can have. The paper says no more of it than "bin size 10"."""


@dataclasses.dataclass(frozen=True)
class RegionFeatures:
    """The regions of one label map of one image, by number."""

    sizes: Int[np.ndarray, " n"]
    """In pixels."""
    boxes: Int[np.ndarray, "n 4"]
    """`xyxy`, the smallest around each region."""
    pairs: Int[np.ndarray, "m 2"]
    """The regions that share an edge of a pixel, the lower number first, each pair once."""
    colour: Float[np.ndarray, "n c"]
    """Histograms of 25 bins a channel, together 1."""
    texture: Float[np.ndarray, "n t"]
    """Histograms of 10 bins a channel and orientation, together 1."""

    @property
    def pixels(self) -> int:
        """Of the image."""
        return int(self.sizes.sum())


def region_features(
    regions: Int[np.ndarray, "h w"], colour: UInt8[np.ndarray, "h w c"], texture: UInt8[np.ndarray, "h w t"]
) -> RegionFeatures:
    """The features of regions numbered 0 to n - 1 without gaps.

    Args:
        regions: the number of each pixel's region.
        colour, texture: what `colour_bins` and `texture_bins` gave for the image, in the colour space of choice.
    """
    boxes, sizes = region_boxes(regions)
    return RegionFeatures(
        sizes=sizes,
        boxes=boxes.astype(np.int64),
        pairs=neighbours(regions),
        colour=histograms(regions, sizes, colour, COLOUR_BINS),
        texture=histograms(regions, sizes, texture, TEXTURE_BINS),
    )


def colour_bins(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """The bin of each value among 25 of equal width over 0..255."""
    return (image.astype(np.uint16) * COLOUR_BINS // 256).astype(np.uint8)


def texture_bins(image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 8*c"]:
    """The bin of the Gaussian derivative (sigma 1) of each channel in each of eight directions, 45 degrees apart.

    Bins are 10 grey levels a pixel wide. A derivative below 0 is in the first bin: it counts in the opposite direction.
    The eight of the first channel come first.
    """
    values, sigmas = image.astype(np.float32), (TEXTURE_SIGMA, TEXTURE_SIGMA, 0)
    across = scipy.ndimage.gaussian_filter(values, sigmas, order=(0, 1, 0))
    down = scipy.ndimage.gaussian_filter(values, sigmas, order=(1, 0, 0))
    angles = np.arange(ORIENTATIONS, dtype=np.float32) * np.float32(2 * np.pi / ORIENTATIONS)
    slopes = across[..., None] * np.cos(angles) + down[..., None] * np.sin(angles)
    found = np.clip(slopes / np.float32(TEXTURE_STEP), 0, TEXTURE_BINS - 1).astype(np.uint8)
    return found.reshape(*image.shape[:2], -1)


def histograms(
    regions: Int[np.ndarray, "h w"], sizes: Int[np.ndarray, " n"], bins: UInt8[np.ndarray, "h w f"], count: int
) -> Float[np.ndarray, "n d"]:
    """How the pixels of each region are spread over `count` bins, for each of f features; a row's sum is 1."""
    first = regions.ravel().astype(np.int64) * count
    rows = len(sizes)
    counts = [
        np.bincount(first + feature, minlength=rows * count).reshape(rows, count)
        for feature in np.moveaxis(bins, -1, 0).reshape(bins.shape[-1], -1)
    ]
    return np.concatenate(counts, axis=1) / (sizes[:, None] * len(counts))


def neighbours(regions: Int[np.ndarray, "h w"]) -> Int[np.ndarray, "m 2"]:
    """The pairs of regions that share an edge of a pixel, the lower number first, each once and in order."""
    count = int(regions.max()) + 1
    codes = []
    for ahead, behind in ((regions[:-1], regions[1:]), (regions[:, :-1], regions[:, 1:])):
        apart = ahead != behind
        a, b = ahead[apart].astype(np.int64), behind[apart].astype(np.int64)
        codes.append(np.minimum(a, b) * count + np.maximum(a, b))
    return np.stack(np.divmod(np.unique(np.concatenate(codes)), count), axis=1)
