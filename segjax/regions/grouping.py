"""Hierarchical grouping of regions: the two most alike neighbours are joined until one region is left.

Uijlings et al. 2013, section 3.1, algorithm 1, with the four similarities of section 3.2, each from 0 to 1 and named
by its letter:

    C   intersection of the colour histograms
    T   intersection of the texture histograms
    S   1 - the share of the image that the two fill: small regions are joined early
    F   1 - the share of the image that is in their common box but in neither: regions that fit into each other

A combination ("CTSF") is their sum.
"""

import heapq
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from segjax.regions.features import RegionFeatures

SIMILARITIES = "CTSF"


class Hierarchy(NamedTuple):
    """All regions of a grouping: n to begin with, then the n - 1 joined ones in the order in which they were made."""

    boxes: Int[np.ndarray, "k 4"]
    """`xyxy` of the k = 2 n - 1 regions; the last is around the whole image."""
    joined: Int[np.ndarray, "j 2"]
    """Of which two regions, the lower number first, region n + i was made."""


def group(features: RegionFeatures, similarities: str) -> Hierarchy:
    """Joins the regions of an image, best first; of equally alike pairs the one with the lowest numbers.

    Args:
        features: of the regions; every region must be reachable from every other through `pairs`.
        similarities: letters of "CTSF", each once at most.

    Raises:
        ValueError: `similarities` is empty, or has another letter or one twice.
    """
    check_similarities(similarities)
    growing = _Growing(features, similarities)
    around: list[set[int]] = [set() for _ in range(len(growing.boxes))]
    for a, b in features.pairs.tolist():
        around[a].add(b)
        around[b].add(a)
    alike = growing.similarity(features.pairs[:, 0], features.pairs[:, 1])
    # Pairs of which one region was joined meanwhile stay in the heap and are passed over.
    heap = [(-value, a, b) for value, (a, b) in zip(alike.tolist(), features.pairs.tolist())]
    heapq.heapify(heap)
    joined, gone = [], bytearray(len(growing.boxes))
    for new in range(len(features.sizes), len(growing.boxes)):
        a, b = _next(heap, gone)
        gone[a] = gone[b] = True
        joined.append((a, b))
        growing.join(a, b, new)
        beside = sorted((around[a] | around[b]) - {a, b})
        around[new].update(beside)
        for other in beside:
            around[other] -= {a, b}
            around[other].add(new)
        for value, other in zip(growing.similarity(new, np.array(beside, np.int64)).tolist(), beside):
            heapq.heappush(heap, (-value, other, new))
    return Hierarchy(growing.boxes, np.array(joined, np.int64).reshape(-1, 2))


def check_similarities(similarities: str) -> None:
    """`ValueError` unless it is made of letters of "CTSF", each once at most."""
    if not similarities or set(similarities) - set(SIMILARITIES) or len(set(similarities)) < len(similarities):
        raise ValueError(
            f"similarities {similarities!r} must be one or more of the letters C (colour), T (texture), S (size) and "
            "F (fill), each once"
        )


def _next(heap: list[tuple[float, int, int]], gone: bytearray) -> tuple[int, int]:
    while True:
        _, a, b = heapq.heappop(heap)
        if not (gone[a] or gone[b]):
            return a, b


class _Growing:
    """The features of regions while they are joined, with room for all there will be."""

    def __init__(self, features: RegionFeatures, similarities: str) -> None:
        count = len(features.sizes)
        room = 2 * count - 1
        self.sizes, self.boxes = np.zeros(room, np.int64), np.zeros((room, 4), np.int64)
        self.sizes[:count], self.boxes[:count] = features.sizes, features.boxes
        # Side by side, the intersection of all histograms is the sum of each one's.
        used = [part for letter, part in (("C", features.colour), ("T", features.texture)) if letter in similarities]
        self.histograms = np.zeros((room, sum(part.shape[1] for part in used)))
        if used:
            self.histograms[:count] = np.concatenate(used, axis=1)
        self.size, self.fill = "S" in similarities, "F" in similarities
        self.pixels = features.pixels

    def similarity(self, first: int | Int[np.ndarray, " m"], second: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """Of the regions `first` with the regions `second`."""
        total = np.minimum(self.histograms[first], self.histograms[second]).sum(axis=-1)
        sizes = self.sizes[first] + self.sizes[second]
        if self.size:
            total = total + (1 - sizes / self.pixels)
        if self.fill:
            box = _around(self.boxes[first], self.boxes[second])
            area = (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])
            total = total + (1 - (area - sizes) / self.pixels)
        return total

    def join(self, a: int, b: int, new: int) -> None:
        """Region `new` becomes the union of `a` and `b`."""
        size_a, size_b = int(self.sizes[a]), int(self.sizes[b])
        self.sizes[new] = size_a + size_b
        self.boxes[new] = _around(self.boxes[a], self.boxes[b])
        self.histograms[new] = (size_a * self.histograms[a] + size_b * self.histograms[b]) / (size_a + size_b)


def _around(first: Int[np.ndarray, "*m 4"], second: Int[np.ndarray, "*n 4"]) -> Int[np.ndarray, "*n 4"]:
    low = np.minimum(first[..., :2], second[..., :2])
    return np.concatenate([low, np.maximum(first[..., 2:], second[..., 2:])], axis=-1)
