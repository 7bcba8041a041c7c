"""What an evaluator is, and what evaluators share: class maps, images seen, detections in the files' pixels."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jaxtyping import Array, Bool, Float32, Int, Int32

from segjax.data.source import ImageInfo, Source
from segjax.evaluation.mask_results import encode_masks
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
            predictions: What `Model.predict` returned for the batch, in pixels of the batch, still on the device.
        """
        ...

    def compute(self) -> dict[str, float]:
        """The scores by name, over all images seen so far. NaN where a score is not defined."""
        ...


@dataclasses.dataclass(frozen=True)
class CollectedDetections:
    """The detections of many images, one row each, in the order in which they came."""

    samples: Int32[np.ndarray, "n"]
    """Index into the source of the image each was found in."""
    boxes: Float32[np.ndarray, "n 4"]
    """`xyxy` in pixels of the original image."""
    scores: Float32[np.ndarray, "n"]
    labels: Int32[np.ndarray, "n"]
    masks: np.ndarray | None = None
    """[n] objects: COCO's compressed run lengths over the original image, None where the model has no masks."""
    keypoints: Float32[np.ndarray, "n k 3"] | None = None
    """(x, y, score) of each joint in pixels of the original image, None where the model has no joints."""
    extra: dict[str, Float32[np.ndarray, "n ..."]] = dataclasses.field(default_factory=dict)
    """What other heads said, by name, as they said it."""

    def select(self, rows: np.ndarray) -> "CollectedDetections":
        """The detections that `rows` (indices or a mask) picks, in its order."""
        return jax.tree.map(lambda column: column[rows], self)


jax.tree_util.register_dataclass(CollectedDetections)


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
    """`detections` of letterboxed images in the pixels of the image files, as NumPy arrays: boxes and joints.

    A letterboxed image lies at the top left of its canvas, so that going back is one factor per axis:
    original size / size on the canvas. The two factors may differ by rounding.

    Args:
        detections: With one leading axis `b`; boxes and joints in pixels of the canvas. Masks are in the frame of their
            boxes and stay as they are, like `extra`.
        sizes: (height, width) that each image has on the canvas. `ValueError` below 1 pixel.
        infos: The original sizes, `Source.info` of each image.
    """
    sizes = np.asarray(sizes, np.float64)
    if sizes.min(initial=1) < 1:
        raise ValueError(f"image sizes must be at least 1 pixel, got {sizes.tolist()}; leave fillers out")
    original = np.asarray([(info.height, info.width) for info in infos], np.float64).reshape(-1, 2)
    if len(original) != len(sizes):
        raise ValueError(f"got {len(sizes)} sizes for {len(original)} image infos; one of each per image is needed")
    factors = (original / sizes)[:, None, ::-1]
    return Detections(
        boxes=_floats(np.asarray(detections.boxes, np.float64) * np.tile(factors, 2)),
        scores=_floats(detections.scores),
        labels=np.asarray(detections.labels, np.int32),
        valid=np.asarray(detections.valid),
        masks=None if detections.masks is None else _floats(detections.masks),
        keypoints=None if detections.keypoints is None else _scaled_joints(detections.keypoints, factors),
        extra={name: _floats(values) for name, values in detections.extra.items()},
    )


def _floats(values: Array | np.ndarray) -> Float32[np.ndarray, "..."]:
    return np.asarray(values, np.float32)


def _scaled_joints(keypoints: Array | np.ndarray, factors: np.ndarray) -> Float32[np.ndarray, "b n k 3"]:
    joints = np.array(keypoints, np.float64)
    joints[..., :2] *= factors[:, :, None]
    return joints.astype(np.float32)


class Seen:
    """The images of a source that were evaluated. Each may come once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._samples: set[int] = set()

    def add(self, samples: Int[Array | np.ndarray, "b"]) -> Int32[np.ndarray, "b"]:
        """Notes the samples of a batch, -1 marking fillers, and returns them as NumPy array.

        `ValueError` where one is not in the source, or came before: it would count twice.
        """
        samples = np.asarray(samples).astype(np.int32)
        for sample in samples[samples >= 0].tolist():
            if sample >= len(self._source):
                raise ValueError(
                    f"sample {sample} is not in the data set {self._source.name!r} of {len(self._source)} images; "
                    "give the evaluator the source that the batches are made of"
                )
            if sample in self._samples:
                raise ValueError(f"sample {sample} was evaluated before; mark repeated images as fillers with -1")
            self._samples.add(sample)
        return samples

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[int]:
        """In ascending order."""
        return iter(sorted(self._samples))


class DetectionCollector:
    """Accumulates the valid detections of the images of `source`, mapped back to the original pixels.

    Masks are laid over the original image as they come and kept as run lengths, a few hundred bytes each.
    Each image may come once: a repeated one would count its detections twice, so it is refused with `ValueError`,
    as are labels outside the class map, values that are not finite (`extra` apart), and batches of which some have
    masks, joints or extra values and some have not.
    """

    def __init__(self, source: Source, *, classes: Sequence[str]) -> None:
        check_classes(classes, source)
        self.source = source
        self._seen = Seen(source)
        self._sizes: dict[int, tuple[int, int]] = {}
        self._parts: list[CollectedDetections] = []

    def update(
        self, samples: Int[Array | np.ndarray, "b"], sizes: Int[Array | np.ndarray, "b 2"], detections: Detections
    ) -> None:
        """Adds the detections of one batch; arguments as in `Evaluator.update`."""
        samples = self._seen.add(samples)
        kept = samples >= 0
        samples = samples[kept]
        if not len(samples):
            return
        self._sizes.update(zip(samples.tolist(), map(tuple, np.asarray(sizes)[kept].tolist())))
        rows = jax.tree.map(lambda column: np.asarray(column)[kept], jax.device_get(detections))
        rows = to_original(rows, np.asarray(sizes)[kept], [self.source.info(int(sample)) for sample in samples])
        valid = np.asarray(rows.valid)
        owners = np.broadcast_to(samples[:, None], valid.shape)[valid]
        rows = jax.tree.map(lambda column: column[valid], rows)
        self._check(owners, rows)
        masks = None if rows.masks is None else self._encode(owners, rows)
        part = CollectedDetections(owners, rows.boxes, rows.scores, rows.labels, masks, rows.keypoints, rows.extra)
        self._check_fields(part)
        self._parts.append(part)

    def compute(self) -> dict[str, float]:
        """No scores: a collector is an `Evaluator` that keeps everything and judges nothing."""
        return {}

    @property
    def seen(self) -> list[int]:
        """Indices of the images seen so far, in ascending order."""
        return list(self._seen)

    @property
    def sizes(self) -> dict[int, tuple[int, int]]:
        """(height, width) in pixels that each image seen so far had in its batch, without padding."""
        return dict(self._sizes)

    def collected(self) -> CollectedDetections:
        """Everything seen so far, in the order in which it came."""
        if not self._parts:
            boxes = np.zeros((0, 4), np.float32)
            return CollectedDetections(np.zeros(0, np.int32), boxes, boxes[:, 0], np.zeros(0, np.int32))
        return jax.tree.map(lambda *columns: np.concatenate(columns), *self._parts)

    def results(self) -> list[dict[str, Any]]:
        """All detections in COCO's result format: image_id, category_id, bbox (x, y, width, height), score; where the
        model has them segmentation (run lengths), keypoints (x, y, score of each joint in one list) and extra values
        by name, None for NaN.

        Category ids are the source's `category_ids` where it has them, else class id + 1. pycocotools sorts objects
        into small, medium and large ones by "bbox" where it is present: leave it out to have it use the mask's area.
        """
        found = self.collected()
        ids = category_ids(self.source)
        image_ids = {sample: self.source.info(sample).image_id for sample in self._seen}
        columns = {
            "image_id": [image_ids[sample] for sample in found.samples.tolist()],
            "category_id": [ids[label] for label in found.labels.tolist()],
            "bbox": xyxy_to_xywh(found.boxes).tolist(),
            "score": found.scores.tolist(),
        }
        if found.masks is not None:
            columns["segmentation"] = found.masks.tolist()
        if found.keypoints is not None:
            columns["keypoints"] = found.keypoints.reshape(len(found.scores), -1).tolist()
        columns |= {name: _without_nan(values) for name, values in found.extra.items()}
        return [dict(zip(columns, row)) for row in zip(*columns.values())]

    def _encode(self, owners: np.ndarray, rows: Detections) -> np.ndarray:
        """The masks of all rows as an array of run lengths."""
        encoded = np.empty(len(owners), object)
        for sample in np.unique(owners).tolist():
            mine, info = np.flatnonzero(owners == sample), self.source.info(sample)
            encoded[mine] = encode_masks(rows.masks[mine], rows.boxes[mine], height=info.height, width=info.width)
        return encoded

    def _check(self, owners: np.ndarray, rows: Detections) -> None:
        count = len(self.source.classes)
        outside = (rows.labels < 0) | (rows.labels >= count)
        n = len(owners)
        faults = {
            f"a label outside 0..{count - 1}": outside,
            "a box or score that is not finite": _not_finite(n, rows.boxes, rows.scores),
            "a mask that is not finite": _not_finite(n, rows.masks),
            "a joint that is not finite": _not_finite(n, rows.keypoints),
        }
        for what, wrong in faults.items():
            if wrong.any():
                row = int(np.argmax(wrong))
                raise ValueError(
                    f"a detection in image {self.source.info(int(owners[row])).image_id!r} has {what} (label "
                    f"{rows.labels[row]}, score {rows.scores[row]}, box {rows.boxes[row].tolist()}); look at the model"
                )

    def _check_fields(self, part: CollectedDetections) -> None:
        taken = sorted(RESULT_FIELDS & set(part.extra))
        if taken:
            raise ValueError(f"the extra value {taken[0]!r} has the name of a field of COCO's results; rename it")
        if self._parts and _fields(part) != _fields(self._parts[0]):
            raise ValueError(
                f"this batch has {', '.join(_fields(part))}, and those before it had "
                f"{', '.join(_fields(self._parts[0]))}; a model must give the same for every batch"
            )


def shared_collector(
    collector: DetectionCollector | None, source: Source, classes: Sequence[str]
) -> DetectionCollector:
    """`collector`, or a new one. `ValueError` where it is of another source, or `classes` are not the source's."""
    own = DetectionCollector(source, classes=classes)
    if collector is not None and collector.source is not source:
        raise ValueError(f"the collector is of the data set {collector.source.name!r}, not of {source.name!r}")
    return own if collector is None else collector


RESULT_FIELDS = frozenset({"image_id", "category_id", "bbox", "score", "segmentation", "keypoints", "id", "area"})


def _fields(part: CollectedDetections) -> list[str]:
    """What is known of each detection, by name and, beyond the first axis, size."""
    known = {"masks": part.masks, "keypoints": part.keypoints, **part.extra}
    return ["boxes"] + [f"{name} {list(v.shape[1:])}" for name, v in sorted(known.items()) if v is not None]


def _not_finite(count: int, *columns: np.ndarray | None) -> Bool[np.ndarray, "n"]:
    """Which of `count` rows hold a value that is not finite; columns that are not there do not count."""
    wrong = [~np.isfinite(c).all(axis=tuple(range(1, c.ndim))) for c in columns if c is not None]
    return np.logical_or.reduce([np.zeros(count, bool), *wrong])


def _without_nan(values: np.ndarray) -> list:
    """As lists in which JSON's null stands for NaN, which JSON does not have."""
    return np.where(np.isnan(values), None, values.astype(object)).tolist()


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
