"""Augmentation of one example at its file's size, before it is brought into a bucket: patches, and larger canvases.

Both follow the single-shot detector of Liu et al. 2016 (SSD, section 2.2 and, of the larger canvas, section 3.6).
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, UInt8

from segjax.data.masks import move_masks
from segjax.data.source import Example
from segjax.data.transforms import crop, place, select
from segjax.types import IGNORE

MEAN_COLOUR = (124, 116, 104)
"""RGB of what lies beside an image: ImageNet's mean, as near as bytes come to it, which normalisation makes zero."""


def check_range(name: str, values: tuple[float, float], low: float, high: float) -> None:
    """ValueError unless the two `values` of the option `name` are in order and lie in `low`..`high`."""
    if not low <= values[0] <= values[1] <= high:
        raise ValueError(f"{name} must be two numbers of {low:g}..{high:g} in order, not {values}")


def check_share(name: str, value: float) -> None:
    """ValueError unless the `value` of the option `name` lies in 0..1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in 0..1, not {value}")


def canvas(size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """An image of `size`, (height, width) in pixels, of the mean colour everywhere."""
    image = np.empty((*size, 3), np.uint8)
    image[:] = np.tile(np.array(MEAN_COLOUR, np.uint8), (size[1], 1))  # by rows: many times as fast as by pixels
    return image


def place_at(example: Example, onto: UInt8[np.ndarray, "_ _ 3"], *, top: int, left: int) -> Example:
    """Writes the image into `onto`, in place, with its corner at (top, left); the example whose image is `onto`.

    What of a label map lies beside the image does not count.
    """
    size, shift = onto.shape[:2], np.array([left, top] * 2, np.float32)
    place(example.image, onto[top:, left:])
    masks, points, proposals = example.masks, example.keypoints, example.proposals
    label_map = None if example.label_map is None else np.full(size, IGNORE, np.uint8)
    if label_map is not None:
        place(example.label_map, label_map[top:, left:])
    return dataclasses.replace(
        example,
        image=onto,
        label_map=label_map,
        boxes=example.boxes + shift,
        masks=None if masks is None else move_masks(masks, size, top=top, left=left),
        keypoints=None if points is None else points + (points[..., 2:] > 0) * np.append(shift[:2], np.float32(0)),
        proposals=None if proposals is None else proposals + shift,
    )


@dataclasses.dataclass(frozen=True)
class ZoomOut:
    """Places the image somewhere on a canvas up to `largest` times as high and wide, so that objects become small.

    The factor is drawn uniformly from 1 to `largest` (Liu et al. 2016, section 3.6, where 4 is the largest).
    """

    probability: float = 0.5
    largest: float = 4.0

    def __post_init__(self) -> None:
        check_share("ZoomOut: probability", self.probability)
        if not self.largest >= 1:
            raise ValueError(f"ZoomOut: largest must be at least 1, not {self.largest}")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if rng.random() >= self.probability:
            return example
        height, width = example.image.shape[:2]
        factor = rng.uniform(1, self.largest)
        size = (int(height * factor), int(width * factor))
        top, left = (int(rng.integers(0, outer - inner + 1)) for outer, inner in zip(size, (height, width)))
        return place_at(example, canvas(size), top=top, left=left)


@dataclasses.dataclass(frozen=True)
class IoUCrop:
    """Cuts out a random patch that overlaps an object by a minimum IoU, or keeps the whole image.

    First one of `overlaps` or the whole image is drawn, each equally likely. Then `trials` patches are drawn, and the
    first is taken in which some object's centre lies whose IoU with the patch reaches that overlap; where there is
    none, all begins anew. Objects whose centre is outside the patch are dropped, the others clipped. An image without
    objects stays whole. The sizes of the patches are torchvision's: shares of each side, within an aspect ratio.
    """

    probability: float = 1.0
    overlaps: tuple[float, ...] = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
    scales: tuple[float, float] = (0.3, 1.0)
    """Shares of the image's height and width, drawn apart."""
    aspects: tuple[float, float] = (0.5, 2.0)
    """Width over height of a patch."""
    trials: int = 40

    def __post_init__(self) -> None:
        check_share("IoUCrop: probability", self.probability)
        check_range("IoUCrop: scales", self.scales, 0.0, 1.0)
        check_range("IoUCrop: aspects", self.aspects, 0.0, np.inf)
        if self.trials < 1 or not all(0 <= overlap <= 1 for overlap in self.overlaps):
            raise ValueError(f"IoUCrop: trials={self.trials} must be positive, overlaps={self.overlaps} lie in 0..1")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if not len(example.labels) or rng.random() >= self.probability:
            return example
        while (drawn := int(rng.integers(len(self.overlaps) + 1))) < len(self.overlaps):
            patches = self._patches(example.image.shape[:2], rng)
            inside = _centres_inside(example.boxes, patches)
            reached = np.where(inside, _ious(patches, example.boxes), -1).max(axis=1) >= self.overlaps[drawn]
            width, height = (patches[:, 2:] - patches[:, :2]).T
            shaped = (width >= self.aspects[0] * height) & (width <= self.aspects[1] * height)
            fit = np.flatnonzero(reached & shaped)
            if len(fit):
                left, top, right, bottom = map(int, patches[fit[0]])
                cropped = crop(example, top=top, left=left, height=bottom - top, width=right - left)
                return select(cropped, inside[fit[0]])
        return example

    def _patches(self, size: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "t 4"]:
        """`xyxy` in whole pixels inside an image of this (height, width)."""
        limits = np.array(size[::-1])
        sides = np.maximum(limits * rng.uniform(*self.scales, (self.trials, 2)), 1).astype(int)
        corners = rng.integers(0, limits - sides + 1)
        return np.concatenate([corners, corners + sides], axis=1).astype(np.float32)


def _centres_inside(boxes: Float[np.ndarray, "n 4"], patches: Float[np.ndarray, "t 4"]) -> Bool[np.ndarray, "t n"]:
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > patches[:, None, :2]) & (centres < patches[:, None, 2:])).all(axis=-1)


def _ious(a: Float[np.ndarray, "t 4"], b: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "t n"]:
    """Of boxes of positive size."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas_a, areas_b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (a, b))
    return shared / (areas_a[:, None] + areas_b - shared)
