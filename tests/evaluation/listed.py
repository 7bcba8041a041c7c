"""A source held in lists, with random objects, and detections of it, for the tests of evaluation."""

import numpy as np

from segjax.data.source import Annotations, ImageInfo, Problems
from segjax.types import Detections


class ListedSource:
    """`Source` over given annotations; images are flat grey."""

    keypoints = None

    def __init__(self, annotations, *, classes=("ant", "bee", "cat"), size=(100, 120), ids=None):
        self.name = "listed"
        self.classes = tuple(classes)
        self.problems = Problems()
        self._annotations = annotations
        self._size = size
        self._ids = ids or list(range(1, len(annotations) + 1))

    def __len__(self):
        return len(self._annotations)

    def info(self, index):
        return ImageInfo(self._ids[index], f"{index}.png", *self._size)

    def annotations(self, index):
        return self._annotations[index]

    def image(self, index):
        return np.full((*self._size, 3), 90 + index, np.uint8)


def objects(boxes=(), labels=(), *, areas=None, crowd=None, difficult=None, first_id=1) -> Annotations:
    """Annotations of one image; areas are those of the boxes unless given."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    own = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Annotations(
        boxes=boxes,
        labels=np.asarray(labels, np.int64).reshape(count),
        areas=own if areas is None else np.asarray(areas, np.float32),
        crowd=np.zeros(count, bool) if crowd is None else np.asarray(crowd, bool),
        difficult=np.zeros(count, bool) if difficult is None else np.asarray(difficult, bool),
        ids=tuple(range(first_id, first_id + count)),
        segmentations=(None,) * count,
    )


def detections(*images) -> Detections:
    """A batch from one list of (box, score, label) per image, padded to a common length."""
    rows = max([len(image) for image in images] + [1])
    boxes = np.zeros((len(images), rows, 4), np.float32)
    scores = np.zeros((len(images), rows), np.float32)
    labels = np.zeros((len(images), rows), np.int32)
    for i, image in enumerate(images):
        for j, (box, score, label) in enumerate(image):
            boxes[i, j], scores[i, j], labels[i, j] = box, score, label
    valid = np.arange(rows) < np.asarray([len(image) for image in images])[:, None]
    return Detections(boxes=boxes, scores=scores, labels=labels, valid=valid)


def random_source(rng, *, images=30, classes=4, difficult=False, ids=None) -> ListedSource:
    """Objects of all COCO sizes, some crowds, every fifth image empty, and a last class without objects."""
    listed = []
    for i in range(images):
        count = 0 if i % 5 == 4 else int(rng.integers(1, 9))
        corners = rng.uniform(0, 250, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(4, 200, (count, 2))], axis=1)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * rng.uniform(0.5, 1, count)
        listed.append(
            objects(
                boxes,
                rng.integers(0, classes - 1, count),
                areas=area,
                crowd=rng.random(count) < 0.15,
                difficult=(rng.random(count) < 0.3) & difficult,
            )
        )
    return ListedSource(listed, classes=[f"class {k}" for k in range(classes)], size=(450, 460), ids=ids)


def random_detections(rng, source, sample):
    """Jittered objects, doubles, wrong classes and noise; scores in steps of 0.1, so that there are many ties."""
    truth = source.annotations(sample)
    near = truth.boxes[rng.integers(0, len(truth.boxes), 12)] if len(truth.boxes) else np.zeros((0, 4))
    near = near + rng.normal(0, 4, near.shape)
    corners = rng.uniform(0, 250, (6, 2))
    boxes = np.concatenate([near, np.concatenate([corners, corners + rng.uniform(0, 150, (6, 2))], axis=1)])
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])  # zero-size boxes are left in
    labels = rng.integers(0, len(source.classes), len(boxes))
    nearest = [np.argmin(np.abs(truth.boxes - box).sum(axis=1)) for box in near]
    own = truth.labels[nearest] if len(near) else np.zeros(0, int)
    labels[: len(near)] = np.where(rng.random(len(near)) < 0.8, own, labels[: len(near)])
    return [(box, score, label) for box, score, label in zip(boxes, rng.integers(1, 11, len(boxes)) / 10, labels)]


def feed(evaluator, source, found, *, batch=8):
    """Gives the evaluator one list of (box, score, label) per image of the source, in unresized pixels."""
    for start in range(0, len(source), batch):
        samples = np.arange(start, min(start + batch, len(source)))
        sizes = np.asarray([[source.info(i).height, source.info(i).width] for i in samples])
        evaluator.update(samples, sizes, detections(*(found[i] for i in samples)))
    return evaluator
