"""Augmentation and resizing of one example: plain NumPy functions in which what is known moves exactly with the pixels.

Boxes, proposals and joints are points in continuous coordinates; masks are pixels. A joint of visibility 0 is (0, 0, 0)
wherever the image goes.

There are two kinds. A `Fit` (`fit_inside`, `stretch`, `ScaleJitter`) brings an image into a bucket; a `Transform`
(`HorizontalFlip`, `ColorJitter`) is `(example, rng) -> example` and works on the image at that size, so that its cost
is bounded by the bucket and not by the file. All randomness comes from `rng`.

Resizing is bilinear with half-pixel centres and without antialiasing, at both directions: what torchvision's detectors
were trained with. Masks of objects are resized by nearest neighbour in the manner of torchvision's detectors, which
is not aligned with that: it takes pixel floor(i * ratio). Label maps are resized by nearest neighbour with half-pixel
centres, floor((i + 1/2) * ratio), so that each pixel keeps the class of the image pixel that weighs most in it.
"""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from segjax.data.buckets import Bucket, fit
from segjax.data.masks import flip_masks, resize_masks
from segjax.data.source import Example
from segjax.types import IGNORE

Transform = Callable[[Example, np.random.Generator], Example]
"""Changes an example without enlarging its image."""
Fit = Callable[[Example, np.random.Generator, Bucket], Example]
"""Makes the image of an example as large as the bucket or smaller."""

GRAY = np.array([0.299, 0.587, 0.114], np.float32)
"""Luma of R, G, B (ITU-R BT.601), as PIL and torchvision weigh them."""


def select(example: Example, keep: Bool[np.ndarray, "n"]) -> Example:
    """The example with only the objects where `keep` is True, and all its proposals."""
    if keep.all():
        return example  # masks are large
    return dataclasses.replace(
        example,
        boxes=example.boxes[keep],
        labels=example.labels[keep],
        masks=None if example.masks is None else example.masks[keep],
        keypoints=None if example.keypoints is None else example.keypoints[keep],
        extra={name: values[keep] for name, values in example.extra.items()},
    )


def resize(example: Example, size: tuple[int, int]) -> Example:
    """The image resized to `size`, (height, width) in pixels, and all that lies on it. The aspect ratio may change."""
    height, width = example.image.shape[:2]
    if size == (height, width):
        return example
    image = cv2.resize(example.image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    ratio = np.array([size[1] / width, size[0] / height] * 2, np.float32)
    masks, points, proposals = example.masks, example.keypoints, example.proposals
    return dataclasses.replace(
        example,
        image=image,
        label_map=None if example.label_map is None else _resize_labels(example.label_map, size),
        boxes=example.boxes * ratio,
        masks=None if masks is None else resize_masks(masks, size),
        keypoints=None if points is None else points * np.append(ratio[:2], np.float32(1)),
        proposals=None if proposals is None else proposals * ratio,
    )


def _resize_labels(label_map: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "h2 w2"]:
    """By nearest neighbour. INTER_NEAREST alone would take floor(i * ratio), up to half a pixel beside INTER_LINEAR."""
    return cv2.resize(label_map, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)


def crop(example: Example, *, top: int, left: int, height: int, width: int) -> Example:
    """The window of the image that starts at (top, left), and what is left of each box in it.

    All objects are kept, in order: a box outside the window comes back with zero width or height. The boxes are
    clipped, also those of objects with masks, so that an object may have a smaller mask than box. A joint outside the
    window loses its label. Proposals that the window leaves nothing of are dropped.
    """
    window = np.s_[top : top + height, left : left + width]
    shift = np.array([left, top] * 2, np.float32)
    limit = np.array([width, height] * 2, np.float32)
    masks, points = example.masks, example.keypoints
    cropped = dataclasses.replace(
        example,
        image=example.image[window],
        label_map=None if example.label_map is None else example.label_map[window],
        boxes=np.clip(example.boxes - shift, 0, limit),
        masks=None if masks is None else masks[:, top : top + height, left : left + width],
        keypoints=None if points is None else _crop_points(points, shift[:2], limit[:2]),
    )
    return cropped if example.proposals is None else _crop_proposals(cropped, shift, limit)


def _crop_points(points: np.ndarray, shift: np.ndarray, limit: np.ndarray) -> Float[np.ndarray, "n k 3"]:
    at = points[..., :2] - shift
    seen = ((at >= 0) & (at <= limit)).all(axis=-1) & (points[..., 2] > 0)
    return np.concatenate([at, points[..., 2:]], axis=-1) * seen[..., None]


def _crop_proposals(example: Example, shift: np.ndarray, limit: np.ndarray) -> Example:
    boxes, scores = np.clip(example.proposals - shift, 0, limit), example.proposal_scores
    left = _areas(boxes) > 0
    scores = None if scores is None else scores[left]
    return dataclasses.replace(example, proposals=boxes[left], proposal_scores=scores)


def place(image: UInt8[np.ndarray, "h w *c"], canvas: UInt8[np.ndarray, "h2 w2 *c"]) -> tuple[int, int]:
    """Writes an image or a label map to the top left of `canvas`, in place, and returns its size.

    ValueError where it is larger.
    """
    height, width = image.shape[:2]
    if height > canvas.shape[0] or width > canvas.shape[1]:
        raise ValueError(
            f"an image of {height}x{width} does not fit into {canvas.shape[0]}x{canvas.shape[1]}: "
            "a transform enlarged it beyond the bucket"
        )
    canvas[:height, :width] = image
    return height, width


def fit_inside(example: Example, rng: np.random.Generator, bucket: Bucket) -> Example:
    """The example as large as it fits into `bucket` with its aspect ratio (`segjax.data.buckets.fit`); not random."""
    del rng
    height, width, _ = fit(*example.image.shape[:2], bucket)
    return resize(example, (height, width))


def stretch(example: Example, rng: np.random.Generator, bucket: Bucket) -> Example:
    """The example as large as `bucket`, whatever its aspect ratio, as SSD and YOLO are trained; not random."""
    del rng
    return resize(example, bucket)


def letterbox(example: Example, size: tuple[int, int]) -> tuple[Example, tuple[int, int]]:
    """The example fitted into `size` with its aspect ratio, at the top left, padding below and to the right.

    Padding is 0 in the image and in masks, and `segjax.types.IGNORE` in a label map.

    Args:
        size: (height, width) in pixels.

    Returns:
        The padded example, and the (height, width) of the part that is not padding.
    """
    height, width, _ = fit(*example.image.shape[:2], size)
    fitted = resize(example, (height, width))
    canvas = np.zeros((*size, 3), np.uint8)
    inside = place(fitted.image, canvas)
    masks = None if fitted.masks is None else np.zeros((len(fitted.masks), *size), np.uint8)
    if masks is not None:
        masks[:, :height, :width] = fitted.masks
    label_map = None if fitted.label_map is None else np.full(size, IGNORE, np.uint8)
    if label_map is not None:
        place(fitted.label_map, label_map)
    return dataclasses.replace(fitted, image=canvas, masks=masks, label_map=label_map), inside


def unletterbox(
    boxes: Float[np.ndarray, "n 4"], size: tuple[int, int], original: tuple[int, int]
) -> Float[np.ndarray, "n 4"]:
    """Boxes of a resized image in the pixels of its file: the inverse of what `letterbox` and `stretch` do to boxes.

    Args:
        boxes: `xyxy` in pixels of the letterboxed image.
        size: (height, width) of its part that is not padding, as in `Batch.sizes`.
        original: (height, width) of the image file.
    """
    ratio = np.array([original[1] / size[1], original[0] / size[0]] * 2, np.float32)
    return boxes * ratio


@dataclasses.dataclass(frozen=True)
class HorizontalFlip:
    """Mirrors left and right with a probability.

    Examples with keypoints need `flip`, the `KeypointNames.flip` of their source: in a mirrored image the left wrist is
    the right one.
    """

    probability: float = 0.5
    flip: tuple[int, ...] | None = None
    """`flip[i]` is the joint that joint i becomes in a mirrored image."""

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"HorizontalFlip: probability must lie in 0..1, not {self.probability}")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        if example.keypoints is not None:
            self._check(example.keypoints.shape[1])
        if rng.random() >= self.probability:
            return example
        width = np.float32(example.image.shape[1])
        masks, points, proposals = example.masks, example.keypoints, example.proposals
        return dataclasses.replace(
            example,
            image=cv2.flip(example.image, 1),
            label_map=None if example.label_map is None else cv2.flip(example.label_map, 1),
            boxes=_mirrored(example.boxes, width),
            masks=None if masks is None else flip_masks(masks),
            keypoints=None if points is None else self._joints(points, width),
            proposals=None if proposals is None else _mirrored(proposals, width),
        )

    def _check(self, joints: int) -> None:
        if self.flip is None or sorted(self.flip) != list(range(joints)):
            raise ValueError(
                f"HorizontalFlip: flip={self.flip} does not say what each of the {joints} joints becomes; give the "
                "source's: HorizontalFlip(flip=source.keypoints.flip)"
            )

    def _joints(self, points: np.ndarray, width: np.float32) -> Float[np.ndarray, "n k 3"]:
        mirrored = points * np.array([-1, 1, 1], np.float32) + np.array([width, 0, 0], np.float32)
        return np.where(points[..., 2:] > 0, mirrored, np.float32(0))[:, list(self.flip)]


@dataclasses.dataclass(frozen=True)
class ScaleJitter:
    """Random scale, then a random crop to the bucket: large-scale jitter (Ghiasi et al. 2021, section 3).

    The scale is drawn uniformly from `scales`, relative to the size that just fits the bucket: at 2 the image is shown
    twice as large and a random window of it is kept, at 0.5 it fills half of each side. The window is cut out before
    resizing, so the cost does not grow with the scale. Where the image becomes smaller than the bucket, the rest is
    padding of the batch, which a label map does not count.

    To crop 360 x 360 from images of 360 x 480 at 0.5 to 2 times their size, the recipe of semantic segmentation, take
    the bucket (360, 360) and scales (2/3, 8/3): at scale 1 such an image fills the bucket's width, at 0.75 of its size.

    With `stretch` the sides have scales of their own that fill the bucket, as `segjax.data.transforms.stretch` does it,
    and the random scale multiplies both.

    An object is dropped, not trained on, where the window leaves less than `min_visible` of its box's area, or less
    than `min_size` pixels of its width or height after resizing. The box decides, also of an object with a mask.
    """

    scales: tuple[float, float] = (0.8, 1.25)
    min_visible: float = 0.2
    min_size: float = 1.0
    stretch: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.scales[0] <= self.scales[1]:
            raise ValueError(f"ScaleJitter: scales must be positive and in order, not {self.scales}")
        if not 0 <= self.min_visible <= 1 or self.min_size < 0:
            raise ValueError(
                f"ScaleJitter: min_visible={self.min_visible} must lie in 0..1, min_size={self.min_size} not below 0"
            )

    def __call__(self, example: Example, rng: np.random.Generator, bucket: Bucket) -> Example:
        sides = example.image.shape[:2]
        fitting = [out / side for out, side in zip(bucket, sides)] if self.stretch else [fit(*sides, bucket)[2]] * 2
        factor = rng.uniform(*self.scales)
        scales = [scale * factor for scale in fitting]
        out = tuple(int(np.clip(n * scale + 1e-6, 1, limit)) for n, scale, limit in zip(sides, scales, bucket))
        window = tuple(int(np.clip(round(n / scale), 1, limit)) for n, scale, limit in zip(out, scales, sides))
        top, left = (int(rng.integers(0, limit - n + 1)) for n, limit in zip(window, sides))
        cropped = crop(example, top=top, left=left, height=window[0], width=window[1])
        visible = _areas(cropped.boxes) >= self.min_visible * _areas(example.boxes)
        resized = resize(cropped, out)
        large = (resized.boxes[:, 2:] - resized.boxes[:, :2] >= max(self.min_size, 1e-6)).all(axis=1)
        return select(resized, visible & large)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Random brightness, contrast and saturation, each a factor drawn uniformly from 1 - x to 1 + x.

    Brightness scales the image, saturation blends it with its grey version, contrast with the mean of that. The three
    are one affine map of the colour and the result is clipped to 0..255 once, at the end.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not 0 <= value <= 1:
                raise ValueError(f"ColorJitter: {name} must lie in 0..1, not {value}")

    def __call__(self, example: Example, rng: np.random.Generator) -> Example:
        strengths = (self.brightness, self.contrast, self.saturation)
        brightness, contrast, saturation = (np.float32(rng.uniform(1 - x, 1 + x)) for x in strengths)
        mean = np.float32(np.dot(cv2.mean(example.image)[:3], GRAY))
        # Grey is a linear map whose weights add up to 1, so it keeps the mean whatever the saturation.
        colour = saturation * np.eye(3, dtype=np.float32) + (1 - saturation) * np.tile(GRAY, (3, 1))
        offset = np.full((3, 1), (1 - contrast) * brightness * mean, np.float32)
        image = cv2.transform(example.image, np.hstack([contrast * brightness * colour, offset]))
        return dataclasses.replace(example, image=image)


def _mirrored(boxes: Float[np.ndarray, "n 4"], width: np.float32) -> Float[np.ndarray, "n 4"]:
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)


def _areas(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n"]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
