"""What an evaluator is, and what evaluators of detections share: class maps, coordinates, accumulation."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Array, Float32, Int, Int32

from segjax.data.source import ImageInfo, Source
from segjax.types import Detections


class Evaluator(Protocol):
    """A score of a model on a source, fed batch by batch. Made anew for every evaluation."""

    def update(
        self, samples: Int[Array | np.ndarray, "b"], sizes: Int[Array | np.ndarray, "b 2"], predictions: Any, /
    ) -> None:
        """Takes what the model predicted for one batch.

        Args:
            samples: Index of each image in the source; -1 marks a filler, which is skipped.
            sizes: (height, width) of the part of each image that is not padding, in pixels of the batch.
            predictions: What `Model.predict` returned for the batch, in pixels of the batch.
        """
        ...

    def compute(self) -> dict[str, float]:
        """The scores by name, over all images seen so far. NaN where a score is not defined."""
        ...


class CollectedDetections(NamedTuple):
    """The detections of many images, one row each, in the order in which they came."""

    samples: Int32[np.ndarray, "n"]
    """Index into the source of the image each was found in."""
    boxes: Float32[np.ndarray, "n 4"]
    """`xyxy` in pixels of the original image."""
    scores: Float32[np.ndarray, "n"]
    labels: Int32[np.ndarray, "n"]


def check_classes(classes: Sequence[str], source: Source) -> None:
    """`ValueError` naming the first difference where a model's `classes` are not those of `source`, order included."""
    if tuple(classes) == tuple(source.classes):
        return
    remedy = "evaluate on data with the class map the model was trained on, or order the data's categories like it"
    for index, (model, data) in enumerate(zip(classes, source.classes)):
        if model != data:
            raise ValueError(
                f"class {index} is {model!r} in the model and {data!r} in the data set {source.name!r}: {remedy}"
            )
    longer, name = (classes, "model") if len(classes) > len(source.classes) else (source.classes, "data set")
    first = min(len(classes), len(source.classes))
    raise ValueError(
        f"the model has {len(classes)} classes and the data set {source.name!r} has {len(source.classes)}; the first "
        f"one that only the {name} has is class {first}, {longer[first]!r}: {remedy}"
    )


def to_original(
    detections: Detections, sizes: Int[Array | np.ndarray, "b 2"], infos: Sequence[ImageInfo]
) -> Detections:
    """`detections` of letterboxed images in the pixels of the image files, as NumPy arrays.

    A letterboxed image lies at the top left of its canvas, so that going back is one factor per axis:
    original size / size on the canvas. The two factors may differ by rounding.

    Args:
        detections: With one leading axis `b`; boxes in pixels of the canvas.
        sizes: (height, width) that each image has on the canvas. `ValueError` below 1 pixel.
        infos: The original sizes, `Source.info` of each image.
    """
    sizes = np.asarray(sizes, np.float64)
    if sizes.min(initial=1) < 1:
        raise ValueError(f"image sizes must be at least 1 pixel, got {sizes.tolist()}; leave fillers out")
    original = np.asarray([(info.height, info.width) for info in infos], np.float64).reshape(-1, 2)
    if len(original) != len(sizes):
        raise ValueError(f"got {len(sizes)} sizes for {len(original)} image infos; one of each per image is needed")
    factors = np.tile((original / sizes)[:, ::-1], 2)
    boxes = np.asarray(detections.boxes, np.float64) * factors[:, None, :]
    return Detections(
        boxes=boxes.astype(np.float32),
        scores=np.asarray(detections.scores, np.float32),
        labels=np.asarray(detections.labels, np.int32),
        valid=np.asarray(detections.valid),
    )


class DetectionCollector:
    """Accumulates the valid detections of the images of `source`, mapped back to the original pixels.

    Each image may come once: a repeated one would count its detections twice, so it is refused with `ValueError`,
    as are labels outside the class map and values that are not finite.
    """

    def __init__(self, source: Source, *, classes: Sequence[str]) -> None:
        check_classes(classes, source)
        self.source = source
        self._seen: set[int] = set()
        self._parts: list[CollectedDetections] = []

    def update(
        self, samples: Int[Array | np.ndarray, "b"], sizes: Int[Array | np.ndarray, "b 2"], detections: Detections
    ) -> None:
        """Adds the detections of one batch; arguments as in `Evaluator.update`."""
        samples = np.asarray(samples)
        kept = samples >= 0
        samples = samples[kept].astype(np.int32)
        self._mark_seen(samples)
        if not len(samples):
            return
        rows = Detections(*(np.asarray(getattr(detections, name))[kept] for name in _FIELDS))
        rows = to_original(rows, np.asarray(sizes)[kept], [self.source.info(int(sample)) for sample in samples])
        valid = np.asarray(rows.valid)
        owners = np.broadcast_to(samples[:, None], valid.shape)[valid]
        part = CollectedDetections(owners, rows.boxes[valid], rows.scores[valid], rows.labels[valid])
        self._check(part)
        self._parts.append(part)

    @property
    def seen(self) -> list[int]:
        """Indices of the images seen so far, in ascending order."""
        return sorted(self._seen)

    def collected(self) -> CollectedDetections:
        """Everything seen so far, in the order in which it came."""
        empty = CollectedDetections(
            np.zeros(0, np.int32), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32)
        )
        return CollectedDetections(*(np.concatenate(column) for column in zip(empty, *self._parts)))

    def results(self) -> list[dict[str, Any]]:
        """All detections in COCO's result format: image_id, category_id, bbox (x, y, width, height), score.

        Category ids are the source's `category_ids` where it has them, else class id + 1.
        """
        found = self.collected()
        ids = category_ids(self.source)
        image_ids = {sample: self.source.info(sample).image_id for sample in self._seen}
        boxes = xyxy_to_xywh(found.boxes).tolist()
        rows = zip(found.samples.tolist(), found.labels.tolist(), boxes, found.scores.tolist())
        return [
            {"image_id": image_ids[sample], "category_id": ids[label], "bbox": box, "score": score}
            for sample, label, box, score in rows
        ]

    def _mark_seen(self, samples: np.ndarray) -> None:
        for sample in samples.tolist():
            if sample >= len(self.source):
                raise ValueError(
                    f"sample {sample} is not in the data set {self.source.name!r} of {len(self.source)} images; "
                    "give the evaluator the source that the batches are made of"
                )
            if sample in self._seen:
                raise ValueError(f"sample {sample} was evaluated before; mark repeated images as fillers with -1")
            self._seen.add(sample)

    def _check(self, part: CollectedDetections) -> None:
        count = len(self.source.classes)
        outside = (part.labels < 0) | (part.labels >= count)
        finite = np.isfinite(part.boxes).all(axis=-1) & np.isfinite(part.scores)
        for wrong, what in (
            (outside, f"a label outside 0..{count - 1}"),
            (~finite, "a box or score that is not finite"),
        ):
            if wrong.any():
                row = int(np.argmax(wrong))
                raise ValueError(
                    f"a detection in image {self.source.info(int(part.samples[row])).image_id!r} has {what} (label "
                    f"{part.labels[row]}, score {part.scores[row]}, box {part.boxes[row].tolist()}); look at the model"
                )


_FIELDS = ("boxes", "scores", "labels", "valid")


def category_ids(source: Source) -> tuple[int, ...]:
    """The id of each class in the data set's own files: `source.category_ids` where it has them, else class id + 1.

    A class of the model that the files do not have (id None) gets an id above all of theirs.
    """
    ids = getattr(source, "category_ids", None)
    if ids is None:
        return tuple(range(1, len(source.classes) + 1))
    unused = itertools.count(max((int(i) for i in ids if i is not None), default=0) + 1)
    return tuple(next(unused) if i is None else int(i) for i in ids)


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """COCO's (x, y, width, height) of `xyxy` boxes, in float64."""
    boxes = np.asarray(boxes, np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)
