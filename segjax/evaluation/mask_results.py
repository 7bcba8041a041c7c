"""Masks of detections at the size of the image, as COCO's compressed run lengths.

A mask head says for m x m parts of a box how likely each is the object's. To lay that over the image is torchvision's
`paste_masks_in_image`, on the host and one box's window at a time, so that no array of the image's size is made.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask

Runs = dict[str, Any]
"""COCO's compressed run lengths: `{"size": [height, width], "counts": str}`."""

MASK_THRESHOLD = 0.5
"""A pixel is the object's above this probability (He et al. 2017, section 3.1)."""


def encode_masks(
    masks: Float[np.ndarray, "n m m"], boxes: Float[np.ndarray, "n 4"], *, height: int, width: int
) -> list[Runs]:
    """The masks of one image's detections as run lengths over the whole image.

    Args:
        masks: Probabilities in the frame of each box.
        boxes: `xyxy` in pixels of the image. What lies outside the image is cut off.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
    """
    windows = _windows(boxes, masks.shape[-1]).tolist()
    padded = np.pad(masks.astype(np.float32, copy=False), ((0, 0), (1, 1), (1, 1)))
    return [_encode(mask, window, height, width) for mask, window in zip(padded, windows)]


def _windows(boxes: Float[np.ndarray, "n 4"], parts: int) -> Int[np.ndarray, "n 4"]:
    """First and last pixel (x1, y1, x2, y2) that each mask covers with a frame of zeros one part wide around it.

    In float32 and truncated towards zero, as torchvision has it: a window one pixel off moves the whole mask.
    """
    boxes = boxes.astype(np.float32, copy=False)
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((parts + 2) / parts)
    centre = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    return np.concatenate([centre - half, centre + half], axis=1).astype(np.int64)


def _encode(padded: Float[np.ndarray, "p p"], window: list[int], height: int, width: int) -> Runs:
    x1, y1, x2, y2 = window
    rows, columns = _weights(y1, y2, len(padded), height), _weights(x1, x2, len(padded), width)
    inside = (columns @ padded.T @ rows.T > MASK_THRESHOLD).T  # stored down the columns, as it will be read
    return encode_window(inside, max(x1, 0), max(y1, 0), height=height, width=width)


def _weights(first: int, last: int, parts: int, limit: int) -> Float[np.ndarray, "pixels parts"]:
    """What each part contributes to the pixels `first` to `last` that lie within 0..limit, bilinearly, half-pixel
    centres (align_corners=False): weights fall with the distance to the part's centre, from 1 to 0 at the next one."""
    pixels = np.arange(max(first, 0), min(last + 1, limit))
    at = (pixels - first + 0.5) * (parts / max(last - first + 1, 1)) - 0.5
    at = np.clip(at, 0, parts - 1)[:, None]
    return np.maximum(0, 1 - np.abs(at - np.arange(parts))).astype(np.float32)


def encode_window(inside: Bool[np.ndarray, "h w"], x: int, y: int, *, height: int, width: int) -> Runs:
    """Run lengths of a mask that is `inside` with its first pixel at (x, y) and empty in the rest of the image.

    COCO's run lengths go down the columns, begin with the pixels outside and are compressed by pycocotools.
    """
    framed = np.zeros((inside.shape[1], inside.shape[0] + 2), bool)
    framed[:, 1:-1] = inside.T
    flat = framed.ravel()
    columns, rows = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), framed.shape[1])
    edges = (columns + x) * height + rows + y  # first pixel of a run and first pixel after it, in turn
    # A run that reaches the foot of one column and goes on at the head of the next is one run.
    joined = np.flatnonzero(edges[1:-1:2] == edges[2::2]) * 2 + 1
    edges = np.delete(edges, np.concatenate([joined, joined + 1]))
    counts = np.diff(edges, prepend=0, append=height * width).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        counts.pop()
    runs = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": runs["counts"].decode("ascii")}
