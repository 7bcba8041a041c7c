"""Augmentation that makes one example of several: mosaics, sums of images, and objects pasted from another image.

A `Mixture` gets finished examples, each of them fitted and transformed by itself, and says what became of all their
objects. The loader (`segjax.data.loading.TrainLoader`) draws the others at random from the whole source.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np

from segjax.data.augment import canvas, check_range, check_share, place_at
from segjax.data.buckets import Bucket
from segjax.data.masks import cover_masks, join_masks, mask_boxes
from segjax.data.source import Example
from segjax.data.transforms import crop, select

LOST = "objects lost to crops"
COVERED = "objects covered by pasted ones"
NOT_PASTED = "objects not pasted"


class Mixed(NamedTuple):
    """What a mixture makes."""

    example: Example
    left_out: dict[str, int]
    """The number of objects of all its examples that are not in `example`, by reason."""


@runtime_checkable
class Mixture(Protocol):
    """Makes one example of several. Frozen and picklable, as it travels to the loader's processes."""

    @property
    def probability(self) -> float:
        """Of being applied to an example, 0 to 1."""
        ...

    @property
    def others(self) -> int:
        """Number of further examples that it needs."""
        ...

    def __call__(self, examples: Sequence[Example], rng: np.random.Generator, bucket: Bucket) -> Mixed:
        """The example in hand and `others` more, none larger than `bucket`, as one that is not larger either.

        `ValueError` where they carry something that cannot be mixed.
        """
        ...


def joined(examples: Sequence[Example]) -> Example:
    """The objects of examples over one canvas, one example's after the other's, on the image of the first."""
    first = examples[0]
    more = {}
    if first.masks is not None:
        more["masks"] = join_masks([one.masks for one in examples])
    if first.keypoints is not None:
        more["keypoints"] = np.concatenate([one.keypoints for one in examples])
    return Example(
        image=first.image,
        boxes=np.concatenate([one.boxes for one in examples]),
        labels=np.concatenate([one.labels for one in examples]),
        extra={name: np.concatenate([one.extra[name] for one in examples]) for name in first.extra},
        **more,
    )


def _check(name: str, examples: Sequence[Example]) -> None:
    for field, found in (("label maps", examples[0].label_map), ("proposals", examples[0].proposals)):
        if found is not None:
            raise ValueError(f"{name} mixes images with objects and cannot mix {field}: leave it out")


def _common(examples: Sequence[Example]) -> tuple[int, int]:
    """The (height, width) of a canvas that holds each of the images."""
    height, width = np.max([one.image.shape[:2] for one in examples], axis=0).tolist()
    return height, width


def _at_corner(example: Example, size: tuple[int, int]) -> Example:
    return example if example.image.shape[:2] == size else place_at(example, canvas(size), top=0, left=0)


@dataclasses.dataclass(frozen=True)
class Mosaic:
    """Four images around a random centre of the bucket, which cuts them (Bochkovskiy et al. 2020, section 3.3).

    Each keeps the size it was fitted to and has a corner at the centre; what sticks out of the bucket is cut off, and
    what none of them reaches has the mean colour. Which image goes to which corner is random. As in `ScaleJitter`, an
    object is dropped where less than `min_visible` of its box's area is left, or less than `min_size` pixels of its
    width or height.
    """

    others: ClassVar[int] = 3

    probability: float = 1.0
    centre: tuple[float, float] = (0.2, 0.8)
    """Where the centre may lie, as shares of the bucket's height and width; the default is Darknet's."""
    min_visible: float = 0.2
    min_size: float = 1.0

    def __post_init__(self) -> None:
        check_share("Mosaic: probability", self.probability)
        check_range("Mosaic: centre", self.centre, 0.0, 1.0)
        check_share("Mosaic: min_visible", self.min_visible)
        if self.min_size < 0:
            raise ValueError(f"Mosaic: min_size must not be negative, but is {self.min_size}")

    def __call__(self, examples: Sequence[Example], rng: np.random.Generator, bucket: Bucket) -> Mixed:
        _check("Mosaic", examples)
        y, x = (round(side * rng.uniform(*self.centre)) for side in bucket)
        image, parts = canvas(bucket), []
        for corner, which in enumerate(rng.permutation(4).tolist()):
            example = examples[which]
            height, width = example.image.shape[:2]
            below, right = divmod(corner, 2)
            rows = min(height, bucket[0] - y if below else y)
            columns = min(width, bucket[1] - x if right else x)
            window = {"top": 0 if below else height - rows, "left": 0 if right else width - columns}
            cut = self._visible(example, crop(example, **window, height=rows, width=columns))
            parts.append(place_at(cut, image, top=y if below else y - rows, left=x if right else x - columns))
        whole = sum(len(one.labels) for one in examples)
        mixed = joined(parts)
        return Mixed(mixed, {LOST: whole - len(mixed.labels)})

    def _visible(self, before: Example, after: Example) -> Example:
        """The objects of a cropped example of which enough is left."""
        sides, old = (one.boxes[:, 2:] - one.boxes[:, :2] for one in (after, before))
        large = (sides >= max(self.min_size, 1e-6)).all(axis=1)
        return select(after, large & (sides.prod(axis=1) >= self.min_visible * old.prod(axis=1)))


@dataclasses.dataclass(frozen=True)
class MixUp:
    """The weighted sum of two images at the same corner, with the objects of both (Zhang et al. 2019, section 3.1).

    The first image's weight is drawn from Beta(`alpha`, `alpha`). Where one of the images does not reach, it has the
    mean colour. All objects count alike in a loss, whatever the weight of their image.
    """

    others: ClassVar[int] = 1

    probability: float = 1.0
    alpha: float = 1.5
    """Zhang et al.'s choice; the larger, the nearer the weights are to a half."""

    def __post_init__(self) -> None:
        check_share("MixUp: probability", self.probability)
        if not self.alpha > 0:
            raise ValueError(f"MixUp: alpha must be positive, not {self.alpha}")

    def __call__(self, examples: Sequence[Example], rng: np.random.Generator, bucket: Bucket) -> Mixed:
        del bucket
        _check("MixUp", examples)
        size, weight = _common(examples), rng.beta(self.alpha, self.alpha)
        one, other = (_at_corner(example, size) for example in examples)
        image = cv2.addWeighted(one.image, weight, other.image, 1 - weight, 0)
        return Mixed(dataclasses.replace(joined([one, other]), image=image), {})


@dataclasses.dataclass(frozen=True)
class CopyPaste:
    """Pastes objects of another image by their masks, at the same places (Ghiasi et al. 2021, section 3).

    A random number of its objects, at least one, is pasted, without blending. Below them the masks of this image's
    objects lose what is covered and their boxes become those of what is left; their covered joints become hidden ones
    (visibility 1). An object of which less than `min_visible` is left is dropped. An object without a mask is never
    pasted; covered, it keeps its box while that share of the box is left. The two images were scaled, cropped and
    mirrored apart, as in the paper, where the recipe does so.
    """

    others: ClassVar[int] = 1

    probability: float = 1.0
    min_visible: float = 0.2
    """In 0..1. At 0 every object stays of which a pixel is left."""

    def __post_init__(self) -> None:
        check_share("CopyPaste: probability", self.probability)
        check_share("CopyPaste: min_visible", self.min_visible)

    def __call__(self, examples: Sequence[Example], rng: np.random.Generator, bucket: Bucket) -> Mixed:
        del bucket
        _check("CopyPaste", examples)
        if examples[0].masks is None:
            raise ValueError("CopyPaste pastes objects by their masks: ask for the field 'masks', or leave it out")
        base, other = examples
        pasted = select(other, self._chosen(other, rng))
        counts = {NOT_PASTED: len(other.labels) - len(pasted.labels), COVERED: 0}
        if not len(pasted.labels):
            return Mixed(base, counts)
        size = _common(examples)
        base, pasted = _at_corner(base, size), _at_corner(pasted, size)
        cover = pasted.masks.max(axis=0)
        below = self._covered(base, cover)
        image = cv2.copyTo(pasted.image, cover, base.image.copy())
        counts[COVERED] = len(base.labels) - len(below.labels)
        return Mixed(dataclasses.replace(joined([below, pasted]), image=image), counts)

    def _chosen(self, example: Example, rng: np.random.Generator) -> np.ndarray:
        """Which of the objects are pasted, bool [n]."""
        able = np.flatnonzero(mask_boxes(example.masks)[:, 2])
        chosen = np.zeros(len(example.labels), bool)
        if len(able):
            chosen[rng.permutation(able)[: rng.integers(1, len(able) + 1)]] = True
        return chosen

    def _covered(self, example: Example, cover: np.ndarray) -> Example:
        """What is left of the objects below `cover`, [h w] of 0 and 1."""
        masks, before, after = cover_masks(example.masks, cover)
        unmasked, touched = before == 0, after < before
        boxes = np.where(touched[:, None], mask_boxes(masks), example.boxes)
        share = after / np.maximum(before, 1)
        share[unmasked] = [1 - _mean_inside(cover, box) for box in example.boxes[unmasked]]
        points = example.keypoints
        if points is not None:
            points = _hidden_below(points, cover)
        kept = (share > 0) & (share >= self.min_visible)
        return select(dataclasses.replace(example, boxes=boxes, masks=masks, keypoints=points), kept)


def _mean_inside(cover: np.ndarray, box: np.ndarray) -> float:
    """The mean of `cover` over the pixels that a box touches."""
    x1, y1 = np.floor(box[:2]).astype(int)
    x2, y2 = np.maximum(np.ceil(box[2:]).astype(int), (x1 + 1, y1 + 1))
    return float(cover[y1:y2, x1:x2].mean())


def _hidden_below(points: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Joints [n k 3] of visibility 2 at pixels that are covered as those of visibility 1."""
    column, row = (np.clip(points[..., i].astype(int), 0, cover.shape[1 - i] - 1) for i in (0, 1))
    hidden = (cover[row, column] > 0) & (points[..., 2] > 1)
    return np.concatenate([points[..., :2], np.where(hidden, np.float32(1), points[..., 2])[..., None]], axis=-1)
