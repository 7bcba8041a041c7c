"""Segmentations in COCO's three forms: polygons, run lengths as a list, and run lengths as a compressed string."""

import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from pycocotools import mask as coco_mask

from segjax.data.source import DataError


def segmentation_to_mask(segmentation: Any, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """The mask that a COCO segmentation describes, as pycocotools draws it.

    Args:
        segmentation: polygons `[[x, y, x, y, ...], ...]`, whose union is taken, or run lengths
            `{"size": [height, width], "counts": list or string}`.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Raises:
        DataError: the segmentation is malformed or of another size.
    """
    fault = segmentation_fault(segmentation, height, width)
    if fault:
        raise DataError(f"A segmentation cannot be drawn: {fault}.")
    return drawn(segmentation, height, width)


def drawn(segmentation: Any, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """The mask of a segmentation that `segmentation_fault` found no fault in."""
    runs = segmentation
    if isinstance(segmentation, list):
        runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    # Run lengths go down the columns and begin with zeros. pycocotools.mask.decode warns under NumPy 2.
    counts = _counts(runs)
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


def segmentation_area(segmentation: Any, height: int, width: int) -> float:
    """Number of pixels inside a COCO segmentation. `DataError` as for `segmentation_to_mask`."""
    return float(segmentation_to_mask(segmentation, height, width).sum())


def segmentation_fault(segmentation: Any, height: int, width: int) -> str | None:
    """What is wrong with a COCO segmentation, in a few words; None where it can be drawn.

    pycocotools trusts its input: a cut-short string or a far-away polygon makes it read or allocate what it should not.
    """
    if isinstance(segmentation, list):
        return _polygons_fault(segmentation, height, width)
    if isinstance(segmentation, dict):
        return _run_lengths_fault(segmentation, height, width)
    return f"it is a {type(segmentation).__name__}, not a list of polygons or run lengths"


def _polygons_fault(polygons: list, height: int, width: int) -> str | None:
    if not polygons:
        return "it has no polygon"
    for polygon in polygons:
        if fault := _shape_fault(polygon):
            return fault
        try:
            points = np.asarray(polygon, np.float64).reshape(-1, 2)
        except OverflowError:
            return _FAR_AWAY
        if not _within_reach(points.min(axis=0), points.max(axis=0), height, width):
            return _FAR_AWAY
    return None


_FAR_AWAY = "a polygon has a corner that is not finite or further outside the image than the image is large"


def _shape_fault(polygon: Any) -> str | None:
    if not isinstance(polygon, (list, tuple)):
        return f"a polygon is a {type(polygon).__name__}, not a list of coordinates"
    if len(polygon) < 6 or len(polygon) % 2:
        return f"a polygon has {len(polygon)} coordinates, where an even number of at least 6 is needed"
    if not {int, float}.issuperset(map(type, polygon)):
        return "a polygon has a coordinate that is not a number"
    return None


def _within_reach(low: np.ndarray, high: np.ndarray, height: Any, width: Any) -> Any:
    """Whether corners lie within one image size of the image; False for NaN. `low` and `high` are (x, y)."""
    x = (low[..., 0] >= -width) & (high[..., 0] <= 2 * width)
    y = (low[..., 1] >= -height) & (high[..., 1] <= 2 * height)
    return x & y


def _run_lengths_fault(runs: dict, height: int, width: int) -> str | None:
    if "size" not in runs or "counts" not in runs:
        return "its run lengths lack 'size' or 'counts'"
    if not isinstance(runs["size"], (list, tuple)) or list(runs["size"]) != [height, width]:
        return f"its run lengths are of size {runs['size']}, the image is [{height}, {width}]"
    counts = _counts(runs)
    if not isinstance(counts, list) or not all(type(c) is int and c >= 0 for c in counts):
        return "its run lengths are not whole numbers or are cut short"
    if sum(counts) != height * width:
        return f"its run lengths add up to {sum(counts)}, the image has {height * width} pixels"
    return None


def _counts(runs: dict) -> Any:
    """The run lengths as a list, where they are a list or a string."""
    counts = runs["counts"]
    if isinstance(counts, (str, bytes)):
        counts = _uncompressed(counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts)
    return counts


def _uncompressed(text: bytes) -> list[int] | None:
    """Run lengths of COCO's compressed string; None where it is not one.

    A number is written in groups of 5 bits from the lowest, offset to printable characters; bit 6 of a group says
    that another follows, bit 5 of the last is the sign. From the fourth on, a number is the difference to two before.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        group = character - 48
        if not 0 <= group < 64:
            return None
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return None if shift else counts


class Segmentations(Sequence):
    """The segmentations of many objects in a few flat arrays: a tenth of the memory of lists in lists of floats.

    `segmentations[i]` is what was appended as the i-th, None where it was None or malformed.
    """

    def __init__(self) -> None:
        self._coordinates = array.array("d")
        self._polygon_ends = array.array("q", [0])
        self._object_ends = array.array("q", [0])
        self._run_lengths: dict[int, dict] = {}

    def append(self, segmentation: Any, height: int, width: int) -> str | None:
        """Adds one object's segmentation; says what is wrong with it, where something is, and then adds None."""
        fault = None
        if isinstance(segmentation, list):
            # The reach of polygons is left to `drop_far_polygons`, which is much faster over all of them at once.
            fault = next(filter(None, map(_shape_fault, segmentation)), None) or self._add_polygons(segmentation)
        elif segmentation is not None:
            fault = segmentation_fault(segmentation, height, width)
            if fault is None:
                self._run_lengths[len(self)] = segmentation
        self._object_ends.append(len(self._polygon_ends) - 1)
        return fault

    def _add_polygons(self, polygons: list) -> str | None:
        first = len(self._polygon_ends)
        try:
            for polygon in polygons:
                self._coordinates.extend(polygon)
                self._polygon_ends.append(len(self._coordinates))
        except OverflowError:
            del self._polygon_ends[first:]
            del self._coordinates[self._polygon_ends[-1] :]
            return _FAR_AWAY
        return None

    def drop_far_polygons(self, heights: np.ndarray, widths: np.ndarray) -> list[tuple[int, str]]:
        """Sets to None the objects whose polygons are non-finite or far outside; (object, what is wrong) for each."""
        if not self._coordinates:
            return []
        points = np.frombuffer(self._coordinates).reshape(-1, 2)
        starts = np.frombuffer(self._polygon_ends, np.int64)[:-1] // 2
        low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
        owner = np.repeat(np.arange(len(self)), np.diff(np.frombuffer(self._object_ends, np.int64)))
        bad = owner[~_within_reach(low, high, heights[owner], widths[owner])]
        found = [(i, _FAR_AWAY) for i in np.unique(bad).tolist()]
        self._dropped = frozenset(i for i, _ in found)
        return found

    _dropped: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self._object_ends) - 1

    def __getitem__(self, i: int) -> Any:
        if i in self._run_lengths:
            return self._run_lengths[i]
        first, last = self._object_ends[i], self._object_ends[i + 1]
        if first == last or i in self._dropped:
            return None
        ends = self._polygon_ends
        return [self._coordinates[ends[p] : ends[p + 1]].tolist() for p in range(first, last)]
