"""A source of label maps held in lists, and predictions of it, for the tests of evaluating semantic segmentation."""

import numpy as np

from segjax.data.source import Annotations, ImageInfo, Problems
from segjax.types import IGNORE, SegmentationMap
from tests.evaluation.listed import objects

CLASSES = ("background", "disc", "square")


class LabelledSource:
    """`LabelMapSource` over given label maps; images are noise on the maps' grey levels."""

    keypoints = None

    def __init__(self, label_maps, *, classes=CLASSES, colours=None):
        self.name = "labelled"
        self.classes = tuple(classes)
        self.colours = colours
        self.problems = Problems()
        self._maps = [np.asarray(label_map, np.uint8) for label_map in label_maps]

    def __len__(self):
        return len(self._maps)

    def info(self, index):
        return ImageInfo(f"im{index}", f"folder/im{index}.png", *self._maps[index].shape)

    def annotations(self, index) -> Annotations:
        return objects()

    def image(self, index):
        grey = np.where(self._maps[index] == IGNORE, 20, 60 + 60 * self._maps[index].astype(int))
        noise = np.random.default_rng(index).integers(-15, 16, (*grey.shape, 3))
        return np.clip(grey[..., None] + noise, 0, 255).astype(np.uint8)

    def label_map(self, index):
        return self._maps[index].copy()


def drawn_map(rng, height, width, *, classes=3, void=True):
    """A label map of a background, one ellipse or rectangle of each other class, and some void."""
    y, x = np.mgrid[:height, :width]
    label_map = np.zeros((height, width), np.uint8)
    for k in range(1, classes):
        cy, cx = rng.uniform(0.2, 0.8, 2) * (height, width)
        ry, rx = rng.uniform(0.1, 0.3, 2) * (height, width)
        inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1 if k % 2 else (abs(y - cy) < ry) & (abs(x - cx) < rx)
        label_map[inside] = k
    if void:
        label_map[: height // 8, : width // 3] = IGNORE
    return label_map


def spoiled(rng, label_map, *, classes=3):
    """The map moved by a pixel or two, with a block of a wrong class: errors at borders and inside."""
    moved = np.roll(label_map, rng.integers(-2, 3, 2), (0, 1))
    moved = np.where(moved == IGNORE, rng.integers(0, classes, moved.shape), moved).astype(np.uint8)
    h, w = moved.shape
    top, left = rng.integers(0, h // 2), rng.integers(0, w // 2)
    moved[top : top + h // 6, left : left + w // 6] = rng.integers(0, classes)
    return moved


def batch_of(maps, *, shape, classes=3, samples=None, high=5.0):
    """(samples, sizes, predictions) whose logits are `high` for the class of each map, at the top left of `shape`.

    Maps of None are fillers.
    """
    logits = np.zeros((len(maps), *shape, classes), np.float32)
    sizes = np.ones((len(maps), 2), np.int32)
    for i, label_map in enumerate(maps):
        if label_map is not None:
            h, w = label_map.shape
            sizes[i] = h, w
            logits[i, :h, :w] = high * np.eye(classes, dtype=np.float32)[label_map]
    numbers = [i if m is not None else -1 for i, m in enumerate(maps)] if samples is None else samples
    return np.asarray(numbers, np.int32), sizes, SegmentationMap(logits)
