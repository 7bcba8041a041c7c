"""A source of objects with masks in every form of COCO and with joints, and disturbed detections of them."""

import dataclasses

import numpy as np
from pycocotools import mask as coco_mask

from segjax.data.source import KeypointNames
from segjax.types import Detections
from tests.evaluation.listed import ListedSource, objects

SIZE = (180, 200)
JOINTS = KeypointNames(
    ("head", "hand", "foot", "tail"), ((0, 1), (0, 2), (2, 3)), (0, 1, 2, 3), (0.03, 0.07, 0.1, 0.05)
)
PARTS = 14


def circle(box) -> np.ndarray:
    """The ellipse that fills a box, over the image."""
    x1, y1, x2, y2 = box
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    width, height = max(x2 - x1, 1), max(y2 - y1, 1)
    return ((x + 0.5 - (x1 + x2) / 2) / width) ** 2 + ((y + 0.5 - (y1 + y2) / 2) / height) ** 2 < 0.25


def segmentation(box, form: str):
    """The ellipse in one of the forms in which COCO's files hold a segmentation, None for "none"."""
    if form == "none":
        return None
    x1, y1, x2, y2 = (float(v) for v in box)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    corners = np.stack([(x1 + x2 + (x2 - x1) * np.cos(angles)) / 2, (y1 + y2 + (y2 - y1) * np.sin(angles)) / 2], axis=1)
    if form == "polygon":
        return [corners.ravel().tolist()]
    if form == "two polygons":
        return [corners[:7].ravel().tolist(), corners[[6, 8, 10, 0]].ravel().tolist()]
    runs = coco_mask.encode(np.asfortranarray(circle(box).astype(np.uint8)))
    if form == "compressed":
        return {"size": list(SIZE), "counts": runs["counts"].decode()}
    flat = circle(box).T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]).astype(int))).tolist()
    return {"size": list(SIZE), "counts": np.diff([0, *edges, flat.size]).tolist()}


FORMS = ("polygon", "two polygons", "compressed", "run lengths", "none")


def posed_source(rng, *, images=16, classes=3, joints=JOINTS) -> ListedSource:
    """Objects of all sizes, every fourth image empty; some are crowds, some have no segmentation, some no joint."""
    listed = []
    for i in range(images):
        count = 0 if i % 4 == 3 else int(rng.integers(1, 7))
        corners = rng.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(12, 115, (count, 2))], axis=1)
        segmentations = tuple(segmentation(box, FORMS[int(rng.integers(5))]) for box in boxes)
        points = boxes[:, None, :2] + rng.random((count, 4, 2)) * (boxes[:, 2:] - boxes[:, :2])[:, None]
        seen = rng.integers(0, 3, (count, 4, 1)) * (rng.random((count, 1, 1)) > 0.25)
        truth = objects(
            boxes,
            rng.integers(0, classes, count),
            areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * 0.8,
            crowd=rng.random(count) < 0.15,
        )
        points = np.concatenate([points * (seen > 0), seen], axis=-1).astype(np.float32)
        angles = np.where(rng.random(count) < 0.2, np.nan, rng.uniform(0, 90, count)).astype(np.float32)
        truth = dataclasses.replace(truth, segmentations=segmentations, keypoints=points, attributes={"angle": angles})
        listed.append(truth)
    source = ListedSource(listed, classes=[f"class {k}" for k in range(classes)], size=SIZE)
    source.keypoints = joints
    return source


def disturbed(rng, source, samples, *, rows=12, noise=4.0) -> Detections:
    """Detections of a batch of images: objects moved about, some of another class, many equal scores."""
    b, k = len(samples), 4
    found = Detections(
        boxes=np.zeros((b, rows, 4), np.float32),
        scores=(rng.integers(1, 11, (b, rows)) / 10).astype(np.float32),
        labels=rng.integers(0, len(source.classes), (b, rows)),
        valid=np.ones((b, rows), bool),
        masks=rng.random((b, rows, PARTS, PARTS), dtype=np.float32),
        keypoints=rng.uniform(0, 150, (b, rows, k, 3)).astype(np.float32),
        extra={"angle": rng.uniform(0, 90, (b, rows)).astype(np.float32)},
    )
    y, x = np.mgrid[:PARTS, :PARTS] / (PARTS - 1) - 0.5
    round_mask = (np.hypot(x, y) < 0.5) * 0.8 + 0.1
    found.boxes[..., 2:] = 40
    for i, sample in enumerate(samples):
        truth = source.annotations(sample)
        for j, own in enumerate(rng.integers(0, len(truth.labels), rows - 2) if len(truth.labels) else ()):
            found.boxes[i, j] = truth.boxes[own] + rng.normal(0, noise, 4)
            found.masks[i, j] = np.clip(round_mask + rng.normal(0, 0.1, round_mask.shape), 0, 1)
            found.keypoints[i, j, :, :2] = truth.keypoints[own, :, :2] + rng.normal(0, noise, (k, 2))
            if rng.random() < 0.8:
                found.labels[i, j] = truth.labels[own]
            found.extra["angle"][i, j] = truth.attributes["angle"][own] + 1
    return found


def feed_posed(evaluator, rng, source, *, batch=8, **options):
    """Gives the evaluator disturbed detections of every image of the source, in original pixels."""
    for start in range(0, len(source), batch):
        samples = np.arange(start, min(start + batch, len(source)))
        evaluator.update(samples, np.full((len(samples), 2), SIZE), disturbed(rng, source, samples, **options))
    return evaluator
