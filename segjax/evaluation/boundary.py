"""How well the boundaries of the classes are met: the boundary F-score of semantic segmentation.

Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?" (BMVC 2013), section 3: a
precision and a recall of boundary pixels for each class of an image, with a tolerance of 0.75 % of its diagonal. The
boundary measure of DAVIS (Perazzi et al. 2016) is its relative for one object, with 0.8 % rounded up to whole pixels
and matching by dilation.

The rule here, exactly:

- A boundary pixel of class k is a pixel of class k of which one of the four neighbours has another class. Pixels
  without a label in the truth take no part, in truth or prediction, neither as pixels nor as neighbours; so neither
  they nor the image's border make a boundary.
- It is matched when the nearest boundary pixel of class k in the other map is at most `tolerance` times the image's
  diagonal away, from centre to centre (Euclidean). Below 1 pixel this asks for the same pixel.
- Precision is the share of predicted boundary pixels that is matched, recall that of the true ones, F their harmonic
  mean: 0 where only one map has a boundary of class k, not defined where neither has.
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float64, UInt8

from segjax.types import IGNORE

TOLERANCE = 0.0075
"""Share of the image's diagonal (Csurka et al. 2013)."""


def boundaries(label_map: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The boundary pixels of all classes: labelled, with one of four neighbours labelled and of another class."""
    found = np.zeros(label_map.shape, bool)
    for here, there in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        a, b = label_map[here], label_map[there]
        differ = (a != b) & (a != IGNORE) & (b != IGNORE)
        found[here] |= differ
        found[there] |= differ
    return found


def boundary_f(
    truth: UInt8[np.ndarray, "h w"],
    predicted: UInt8[np.ndarray, "h w"],
    *,
    classes: int,
    tolerance: float = TOLERANCE,
) -> Float64[np.ndarray, "{classes}"]:
    """The boundary F-score of each class in one image, by the rule above.

    Args:
        truth: Class ids; `IGNORE` where there is no label.
        predicted: Class ids.
        classes: Their number.
        tolerance: Share of the diagonal, the square root of h^2 + w^2 in pixels. `ValueError` below 0.

    Returns:
        0 to 1; NaN of a class that has no boundary in either map.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, got {tolerance}.")
    predicted = np.where(truth == IGNORE, np.uint8(IGNORE), predicted)
    # Squares of distances are whole numbers, so that roots this large differ by more than the slack for rounding.
    reach = tolerance * float(np.hypot(*truth.shape)) + 1e-4
    scores = np.full(classes, np.nan)
    edges = boundaries(truth), boundaries(predicted)
    present = np.unique(np.concatenate([truth[edges[0]], predicted[edges[1]]]))
    for k in present[present < classes].tolist():
        scores[k] = _f_score(edges[0] & (truth == k), edges[1] & (predicted == k), reach)
    return scores


def _f_score(truth: np.ndarray, predicted: np.ndarray, reach: float) -> float:
    """F of two sets of boundary pixels of which at least one is not empty."""
    if not truth.any() or not predicted.any():
        return 0.0
    either = truth | predicted
    rows, columns = np.flatnonzero(either.any(1)), np.flatnonzero(either.any(0))
    # Nearest pixels of both sets lie in the box around both.
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    truth, predicted = truth[box], predicted[box]
    precision = np.mean(_distance(truth)[predicted] <= reach)
    recall = np.mean(_distance(predicted)[truth] <= reach)
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _distance(pixels: np.ndarray) -> np.ndarray:
    """The distance of every pixel to the nearest of `pixels`, exact up to float32."""
    return cv2.distanceTransform((~pixels).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


class BoundaryScores:
    """Boundary F-scores of many images, averaged."""

    def __init__(self, classes: int, *, tolerance: float = TOLERANCE) -> None:
        self._classes, self._tolerance = classes, tolerance
        self._sums, self._counts = np.zeros(classes), np.zeros(classes, np.int64)
        self._images: list[float] = []

    def add(self, truth: UInt8[np.ndarray, "h w"], predicted: UInt8[np.ndarray, "h w"]) -> None:
        """Takes the two maps of one image; arguments as in `boundary_f`."""
        scores = boundary_f(truth, predicted, classes=self._classes, tolerance=self._tolerance)
        defined = ~np.isnan(scores)
        self._sums += np.where(defined, scores, 0.0)
        self._counts += defined
        if defined.any():
            self._images.append(float(scores[defined].mean()))

    @property
    def mean(self) -> float:
        """The mean over images of the mean over the classes that have a boundary there; NaN without any."""
        return float(np.mean(self._images)) if self._images else float("nan")

    @property
    def by_class(self) -> Float64[np.ndarray, "c"]:
        """Of each class the mean over the images in which it has a boundary, true or predicted; NaN without any."""
        return np.where(self._counts > 0, self._sums / np.maximum(self._counts, 1), np.nan)
