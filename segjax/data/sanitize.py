"""Which boxes of a data set can be used: the rules that every reader of boxes shares."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from segjax.data.source import ImageId, Problems

ROUNDING = 1.0
"""Pixels. A box that leaves its image by no more is clipped without a word: annotation tools round to whole pixels."""

MALFORMED = "malformed or non-finite box"
INVERTED = "inverted box"
ZERO_SIZE = "zero-size box"
OUTSIDE = "box outside the image"
PARTLY_OUTSIDE = "box partly outside the image"
_KINDS = (None, MALFORMED, INVERTED, ZERO_SIZE, OUTSIDE, PARTLY_OUTSIDE)
"""In order of precedence: a box is counted under the first that applies."""


def fault_kinds(boxes: Float[np.ndarray, "n 4"], sizes: Int[np.ndarray, "n 2"]) -> Int[np.ndarray, "n"]:
    """What is wrong with each box, as an index into the kinds above; 0 where nothing is.

    Args:
        boxes: `xyxy` in pixels of the image, as stated in the data.
        sizes: (height, width) of each box's image.
    """
    x1, y1, x2, y2 = boxes.T
    height, width = sizes.T
    overshoot = np.max([-x1, -y1, x2 - width, y2 - height], axis=0)
    conditions = [
        ~np.isfinite(boxes).all(axis=1),
        (x2 < x1) | (y2 < y1),
        (x2 == x1) | (y2 == y1),
        (x1 >= width) | (y1 >= height) | (x2 <= 0) | (y2 <= 0),
        overshoot > ROUNDING,
    ]
    return np.select(conditions, range(1, len(_KINDS)), default=0)


def clean_boxes(
    boxes: Float[np.ndarray, "n 4"],
    sizes: Int[np.ndarray, "n 2"],
    *,
    image_ids: Sequence[ImageId],
    annotation_ids: Sequence[int | str],
    problems: Problems,
    stated: Callable[[int], str] | None = None,
) -> tuple[Float[np.ndarray, "n 4"], Bool[np.ndarray, "n"]]:
    """Boxes clipped to their images in float32, and which of them are usable; faults go to `problems`.

    Zero-size, inverted, non-finite boxes and boxes wholly outside the image are not usable. Boxes partly outside are
    clipped, and reported where they overshoot by more than `ROUNDING`.

    Args:
        boxes: `xyxy` in pixels of the image, as stated in the data.
        sizes: (height, width) of each box's image.
        image_ids: image id of each box.
        annotation_ids: annotation id of each box.
        problems: where faults are recorded.
        stated: box `i` as the data writes it, for the report; the `xyxy` box by default.
    """
    kinds = fault_kinds(boxes, sizes)
    limits = sizes[:, [1, 0, 1, 0]].astype(np.float64)
    # Clipping a non-finite box gives something; it is not usable and never looked at.
    clipped = np.clip(boxes, 0.0, limits).astype(np.float32)
    # A sliver can have a size in float64 and none in float32.
    sliver = (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)
    kinds = np.where(sliver & np.isin(kinds, [0, _KINDS.index(PARTLY_OUTSIDE)]), _KINDS.index(ZERO_SIZE), kinds)
    for i in np.flatnonzero(kinds).tolist():
        kind = _KINDS[kinds[i]]
        height, width = sizes[i].tolist()
        box = stated(i) if stated else "[" + ", ".join(f"{v:g}" for v in boxes[i]) + "]"
        problems.add(
            kind,
            image_ids[i],
            f"image {image_ids[i]}, annotation {annotation_ids[i]}, box {box} in {width}x{height} pixels",
            action="clipped" if kind == PARTLY_OUTSIDE else "skipped",
            annotation_id=annotation_ids[i],
        )
    return clipped, (kinds == 0) | (kinds == _KINDS.index(PARTLY_OUTSIDE))
