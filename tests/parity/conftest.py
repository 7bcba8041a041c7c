"""Images and objects for both sides. Weights with which a torch network does something: `benchmarks.random_weights`."""

from typing import Any, NamedTuple

import numpy as np

from segjax.types import Batch, Instances

CLASSES = 10
CAPACITY = 8
JOINTS = 17


class Objects(NamedTuple):
    """The labelled objects of one image."""

    boxes: np.ndarray
    labels: np.ndarray
    """0-based."""
    masks: np.ndarray
    """bool [n, height, width] of the image without padding."""
    keypoints: np.ndarray
    """(x, y, visibility) [n, JOINTS, 3]."""


def random_images(rng: np.random.Generator, *sizes: tuple[int, int]) -> list[np.ndarray]:
    """Images of coloured patches and noise, uint8: something that features can differ on."""

    def image(height, width):
        patches = rng.uniform(0, 255, (-(-height // 32), -(-width // 32), 3)).repeat(32, 0).repeat(32, 1)
        return np.clip(patches[:height, :width] + rng.normal(0, 30, (height, width, 3)), 0, 255).astype(np.uint8)

    return [image(*size) for size in sizes]


def random_objects(rng: np.random.Generator, size: tuple[int, int], count: int, *, classes: int = CLASSES) -> Objects:
    """Objects from small to half the image, the first two at its borders, ellipses and quadrilaterals in turn."""
    limits = np.asarray(size[::-1], np.float32)
    corner = rng.uniform(0, 0.5, (count, 2)) * limits
    side = rng.uniform(0.1, 0.5, (count, 2)) * limits
    corner[:1], corner[1:2] = 0, (limits - side)[1:2]
    boxes = np.minimum(np.concatenate([corner, corner + side], axis=1), [*limits, *limits]).astype(np.float32)
    masks = np.array([(ellipse if i % 2 else quadrilateral)(rng, size, box) for i, box in enumerate(boxes)], bool)
    labels = rng.integers(0, classes, count).astype(np.int32)
    return Objects(boxes, labels, masks.reshape(count, *size), random_joints(rng, boxes))


def pixels(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the pixels' centres, [1, w] and [h, 1]."""
    return np.arange(size[1])[None] + 0.5, np.arange(size[0])[:, None] + 0.5


def ellipse(rng: np.random.Generator, size: tuple[int, int], box: np.ndarray) -> np.ndarray:
    """The largest one in the box."""
    (x, y), centre, half = pixels(size), (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 <= 1


def quadrilateral(rng: np.random.Generator, size: tuple[int, int], box: np.ndarray) -> np.ndarray:
    """One with a corner on each side of the box, clockwise on the screen."""
    (x, y), (x1, y1, x2, y2) = pixels(size), box
    top, right, bottom, left = rng.uniform(0.1, 0.9, 4)
    across, down = (lambda t: x1 + t * (x2 - x1)), (lambda t: y1 + t * (y2 - y1))
    corners = np.array([(across(top), y1), (x2, down(right)), (across(bottom), y2), (x1, down(left))])
    inside = np.ones(size, bool)
    for a, b in zip(corners, np.roll(corners, -1, axis=0)):
        inside &= (b[0] - a[0]) * (y - a[1]) >= (b[1] - a[1]) * (x - a[0])
    return inside


def random_joints(rng: np.random.Generator, boxes: np.ndarray) -> np.ndarray:
    """Joints of every visibility in and around the boxes, the first on the corner at the lower right."""
    place = rng.uniform(-0.15, 1.15, (len(boxes), JOINTS, 2))
    place[:, 0] = 1
    joints = boxes[:, None, :2] + place * (boxes[:, None, 2:] - boxes[:, None, :2])
    joints[:, 0] = boxes[:, 2:]
    visibility = rng.integers(0, 3, (len(boxes), JOINTS, 1))
    # COCO has zeros where a joint is not labelled.
    return np.concatenate([joints * (visibility > 0), visibility], axis=-1).astype(np.float32)


def as_batch(images: list[np.ndarray], objects: list[Objects] | None = None) -> Batch:
    """Images in the corner of the smallest batch whose sides are multiples of 32, as torchvision batches them."""
    count, sizes = len(images), np.array([image.shape[:2] for image in images], np.int32)
    height, width = -(-sizes.max(axis=0) // 32) * 32
    # What the padding holds must not matter: torchvision pads with zeros after normalising.
    canvas = np.full((count, height, width, 3), 77, np.uint8)
    boxes, labels = np.zeros((count, CAPACITY, 4), np.float32), np.zeros((count, CAPACITY), np.int32)
    valid, masks = np.zeros((count, CAPACITY), bool), np.zeros((count, CAPACITY, height, width), bool)
    joints = np.zeros((count, CAPACITY, JOINTS, 3), np.float32)
    for i, image in enumerate(images):
        canvas[i, : image.shape[0], : image.shape[1]] = image
    for i, of_image in enumerate(objects or []):
        n, (h, w) = len(of_image.labels), sizes[i]
        boxes[i, :n], labels[i, :n], valid[i, :n], joints[i, :n] = *of_image[:2], True, of_image.keypoints
        masks[i, :n, :h, :w] = of_image.masks
    instances = Instances(boxes, labels, valid, np.packbits(masks, axis=-1), joints)
    return Batch(canvas, sizes, instances, np.arange(count, dtype=np.int32))


def as_torch(images: list[np.ndarray]) -> list[Any]:
    """Images as torchvision's models take them."""
    import torch

    return [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in images]


def as_targets(objects: list[Objects]) -> list[dict[str, Any]]:
    """Objects as torchvision's models take them: class 0 is the background."""
    import torch

    return [
        {
            "boxes": torch.from_numpy(of_image.boxes).reshape(-1, 4),
            "labels": torch.from_numpy(of_image.labels.astype(np.int64)) + 1,
            "masks": torch.from_numpy(of_image.masks.astype(np.uint8)),
            "keypoints": torch.from_numpy(of_image.keypoints),
        }
        for of_image in objects
    ]
