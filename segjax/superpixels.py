"""Grouping the pixels of an image by colour and texture, with nothing learnt: regions for clean-up and as proposals.

Each method takes an image, uint8 [h w 3], and gives a label map, int32 [h w], whose regions are numbered 0 to n - 1
without gaps. They run on the host, through scikit-image and OpenCV, and give the same regions for the same image.
`METHODS` has them by name.
"""

from collections.abc import Callable

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import skimage.segmentation
from jaxtyping import Array, Bool, Float, Int, Int32, UInt8

from segjax.ops.guided import region_means

Image = UInt8[np.ndarray, "h w 3"]
Regions = Int32[np.ndarray, "h w"]


def felzenszwalb(image: Image, *, scale: float = 100.0, sigma: float = 0.8, min_size: int = 20) -> Regions:
    """Greedy merging on the graph of neighbouring pixels (Felzenszwalb and Huttenlocher 2004).

    Args:
        image: RGB.
        scale: how different a region may be within; larger gives larger regions. The paper's k.
        sigma: of the Gaussian that smooths the image first, in pixels.
        min_size: smaller regions are merged with a neighbour, in pixels.
    """
    _check("felzenszwalb", image, scale=scale)
    return _numbered(skimage.segmentation.felzenszwalb(image, scale=scale, sigma=sigma, min_size=min_size))


def slic(image: Image, *, regions: int = 200, compactness: float = 10.0) -> Regions:
    """k-means on colour (CIELAB) and place, from a grid of centres (Achanta et al. 2012): regions of about one size.

    Args:
        image: RGB.
        regions: how many are wanted; about as many are found.
        compactness: weight of place against colour; larger gives squarer regions.
    """
    _check("slic", image, regions=regions, compactness=compactness)
    found = skimage.segmentation.slic(
        image, n_segments=regions, compactness=compactness, start_label=0, channel_axis=-1, enforce_connectivity=True
    )
    return _numbered(found)


def mean_shift(image: Image, *, space: float = 8.0, colour: float = 16.0, min_size: int = 20) -> Regions:
    """Pixels that climb to the same mode of the density of place and colour (Comaniciu and Meer 2002, section 4).

    The filtering is OpenCV's mean shift, in RGB; neighbours whose modes differ by less than `colour` in every channel
    are then joined, and small regions go to the neighbour nearest in colour.

    Args:
        image: RGB.
        space: radius of the window in the image, in pixels.
        colour: radius of the window in colour, in steps of 0..255.
        min_size: of the smallest region that is kept, in pixels.
    """
    _check("mean_shift", image, space=space, colour=colour)
    modes = cv2.pyrMeanShiftFiltering(image, space, colour, maxLevel=0).astype(np.float32)
    close = [np.abs(np.diff(modes, axis=axis)).max(axis=-1) < colour for axis in (0, 1)]
    pixels = np.arange(modes[..., 0].size).reshape(modes.shape[:2])
    pairs = [_neighbours(pixels, axis)[:, alike.ravel()] for axis, alike in enumerate(close)]
    regions = _components(np.concatenate(pairs, axis=1), pixels.size)
    return _without_small(regions.reshape(pixels.shape), modes, min_size)


METHODS: dict[str, Callable[..., Regions]] = {"felzenszwalb": felzenszwalb, "slic": slic, "mean_shift": mean_shift}
"""Name -> (image, **options) -> regions."""


def region_boxes(
    regions: Int[np.ndarray, "h w"],
) -> tuple[Float[np.ndarray, "n 4"], Int[np.ndarray, " n"]]:
    """(boxes, areas): the smallest `xyxy` box around each region, float32, and its pixels, by region number.

    `np.argsort(-areas)` puts the largest first, since a file of proposals (`segjax.data.proposals`) has an order. A
    number that no pixel has gives a box of zeros and an area of 0.
    """
    count = int(regions.max()) + 1
    rows, cols = np.indices(regions.shape)
    ids, boxes = regions.ravel(), np.empty((count, 4), np.float32)
    areas = np.bincount(ids, minlength=count)
    for column, places in ((0, cols), (1, rows)):
        low, high = np.full(count, max(regions.shape)), np.full(count, -1)
        np.minimum.at(low, ids, places.ravel())
        np.maximum.at(high, ids, places.ravel())
        boxes[:, column], boxes[:, column + 2] = low, high + 1
    return np.where(areas[:, None] > 0, boxes, np.float32(0)), areas


def region_masks(regions: Int[np.ndarray, "h w"]) -> Bool[np.ndarray, "n h w"]:
    """The mask of each region, by region number. h * w bytes each."""
    return regions == np.arange(int(regions.max()) + 1)[:, None, None]


_region_means = jax.jit(region_means, static_argnames="count")


def clean_up(
    probabilities: Float[Array | np.ndarray, "h w c"], regions: Int[np.ndarray, "h w"]
) -> Float[Array, "h w c"]:
    """Each pixel gets the mean over its region (Farabet et al. 2013, section 4.1); the classes follow by argmax.

    It is `segjax.ops.guided.region_means` with the number of regions rounded up to a power of two, so that images with
    other numbers of regions do not compile anew. Logits serve as well: theirs are geometric means of probabilities.
    """
    count = 1 << int(regions.max()).bit_length()
    return _region_means(jnp.asarray(probabilities), jnp.asarray(regions), count=count)


def _check(name: str, image: np.ndarray, **positive: float | int) -> None:
    if 0 in image.shape:
        raise ValueError(f"{name}: the image of {image.shape[0]} x {image.shape[1]} has no pixels")
    for option, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name}: {option}={value} must be above 0")


def _numbered(regions: np.ndarray) -> Regions:
    """The same regions, numbered from 0 without gaps, in the order of their numbers."""
    return np.unique(regions, return_inverse=True)[1].reshape(regions.shape).astype(np.int32)


def _neighbours(regions: np.ndarray, axis: int) -> np.ndarray:
    """[2 n]: what stands in each pixel and in the next one along `axis`."""
    ahead, behind = np.delete(regions, -1, axis), np.delete(regions, 0, axis)
    return np.stack([ahead.ravel(), behind.ravel()])


def _components(pairs: np.ndarray, count: int) -> np.ndarray:
    """The number of the connected component of each of `count` nodes, joined in pairs [2 n]."""
    graph = scipy.sparse.coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), shape=(count, count))
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1]


def _without_small(regions: np.ndarray, colours: np.ndarray, min_size: int) -> Regions:
    """Regions of fewer than `min_size` pixels merged into the neighbour nearest in mean colour, until none is left."""
    while True:
        regions = _numbered(regions)
        areas = np.bincount(regions.ravel())
        small = areas < min_size
        if len(areas) == 1 or not small.any():
            return regions
        sums = [np.bincount(regions.ravel(), colours[..., i].ravel()) for i in range(colours.shape[-1])]
        means = np.stack(sums, axis=1) / areas[:, None]
        pairs = np.concatenate([_neighbours(regions, axis) for axis in (0, 1)], axis=1)
        pairs = np.concatenate([pairs, pairs[::-1]], axis=1)
        pairs = pairs[:, (pairs[0] != pairs[1]) & small[pairs[0]]]
        distance = np.abs(means[pairs[0]] - means[pairs[1]]).sum(axis=1)
        order = np.lexsort((pairs[1], distance, pairs[0]))
        first = np.unique(pairs[0][order], return_index=True)[1]
        regions = _components(pairs[:, order[first]], len(areas))[regions]
