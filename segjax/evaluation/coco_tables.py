"""What COCO's evaluation is given and what it gives back, for boxes, masks and joints: faster-coco-eval's dictionaries.

Nothing here averages: `segjax.evaluation.coco_ap` makes the scores out of the tables.
"""

from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from jaxtyping import Float, Num
from pycocotools import mask as coco_mask

from segjax.data.source import Annotations, ImageInfo, Source
from segjax.evaluation.evaluator import CollectedDetections, DetectionCollector, xyxy_to_xywh

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
ASSUMED_SIGMA = 0.05
"""The standard deviation of every joint, in units of the object's size, where a data set states none. COCO's own lie
between 0.025 (eyes) and 0.107 (hips)."""


class Kind(NamedTuple):
    """How COCO evaluates one kind of output."""

    iou_type: str
    prefix: str
    """Of the scores' names."""
    areas: tuple[str, ...]
    """Sizes of objects that are told apart: small below 32², large from 96² square pixels. Joints of small objects
    are not labelled in COCO, so that it knows no such score."""
    limits: tuple[int, ...]
    """How many detections of a class in an image count, best first, for recall; the last one for everything else."""


KINDS = {
    "boxes": Kind("bbox", "", ("all", "small", "medium", "large"), (1, 10, 100)),
    "masks": Kind("segm", "mask_", ("all", "small", "medium", "large"), (1, 10, 100)),
    "keypoints": Kind("keypoints", "keypoint_", ("all", "medium", "large"), (20,)),
}


def sigmas(source: Source) -> tuple[float, ...]:
    """The OKS standard deviation of each joint: the data set's own, else `ASSUMED_SIGMA` for all.

    `ValueError` where the data set does not state one for each joint.
    """
    joints, own = len(source.keypoints.names), source.keypoints.sigmas
    if own and len(own) != joints:
        raise ValueError(
            f"the data set {source.name!r} states {len(own)} sigmas for {joints} joints; state one for each"
        )
    return own or (ASSUMED_SIGMA,) * joints


def coco_tables(collector: DetectionCollector, kind: str) -> dict[str, Float[np.ndarray, "..."]]:
    """Precision and scores [10, 101, k, area, limit] and recall [10, k, area, limit], -1 where undefined.

    `ValueError` where there are detections without what `kind` is about.
    """
    source, rule = collector.source, KINDS[kind]
    ranks = _image_ranks(source, collector.seen)
    if not ranks:
        empty = np.full((10, 101, len(source.classes), len(rule.areas), len(rule.limits)), -1.0)
        return {"precision": empty, "scores": empty, "recall": empty[:, 0]}
    truth = COCO(
        {"images": _images(source, ranks), **_categories(source), "annotations": _objects(source, ranks, kind)}
    )
    found = truth.loadRes(_found(collector, ranks, kind))
    own = {"kpt_oks_sigmas": list(sigmas(source))} if kind == "keypoints" else {}
    run = COCOeval_faster(truth, found, rule.iou_type, print_function=lambda *_: None, **own)
    # For joints it would leave out the classes of which there are no objects.
    run.params.catIds = list(range(1, len(source.classes) + 1))
    run.evaluate()
    run.accumulate()
    return {name: np.asarray(run.eval[name]) for name in ("precision", "recall", "scores")}


def _image_ranks(source: Source, seen: list[int]) -> dict[int, int]:
    """Number of each image for the library, from 1, in the order of the image ids.

    COCO breaks ties between equal scores by the order of image ids, so that order has to be kept. The ids themselves
    cannot be used: they may be strings.
    """
    ids = {sample: source.info(sample).image_id for sample in seen}
    integers = all(isinstance(image_id, int) for image_id in ids.values())
    ordered = sorted(seen, key=lambda sample: ids[sample]) if integers else seen
    return {sample: rank for rank, sample in enumerate(ordered, start=1)}


def _images(source: Source, ranks: dict[int, int]) -> list[dict[str, Any]]:
    infos = ((rank, source.info(sample)) for sample, rank in ranks.items())
    return [{"id": rank, "height": info.height, "width": info.width} for rank, info in infos]


def _categories(source: Source) -> dict[str, list[dict[str, Any]]]:
    """Categories numbered from 1 in class order: the library takes id 0 for "none" in places."""
    return {"categories": [{"id": k, "name": name} for k, name in enumerate(source.classes, start=1)]}


def _objects(source: Source, ranks: dict[int, int], kind: str) -> list[dict[str, Any]]:
    objects = []
    for sample, rank in ranks.items():
        truth = source.annotations(sample)
        ignored = ~truth.counted
        own: list[dict[str, Any]] = [{}] * len(truth.labels)
        if kind == "masks":
            own = [_object_mask(truth, i, source.info(sample)) for i in range(len(truth.labels))]
            ignored = ignored | np.asarray([s is None for s in truth.segmentations], bool)
        elif kind == "keypoints":
            own = [_object_joints(points) for points in _joints_of(truth, source)]
        boxes = xyxy_to_xywh(truth.boxes).tolist()
        for label, box, area, ignore, more in zip(
            truth.labels.tolist(), boxes, truth.areas.tolist(), ignored.tolist(), own
        ):
            row = {"id": len(objects) + 1, "image_id": rank, "category_id": label + 1, "bbox": box}
            objects.append(row | {"area": area, "iscrowd": int(ignore)} | more)
    return objects


def _object_mask(truth: Annotations, index: int, info: ImageInfo) -> dict[str, Any]:
    """An object's run lengths, drawn by pycocotools; those of its box where it has no segmentation."""
    stored, size = truth.segmentations[index], (info.height, info.width)
    stored = xyxy_to_xywh(truth.boxes[index : index + 1]) if stored is None else stored
    drawn = coco_mask.frPyObjects(stored, *size) if not _compressed(stored) else stored
    runs = coco_mask.merge(drawn) if isinstance(drawn, list) else drawn
    counts = runs["counts"]
    return {
        "segmentation": {"size": list(size), "counts": counts if isinstance(counts, str) else counts.decode("ascii")}
    }


def _compressed(stored: Any) -> bool:
    return isinstance(stored, dict) and isinstance(stored["counts"], (str, bytes))


def _joints_of(truth: Annotations, source: Source) -> Num[np.ndarray, "n k 3"]:
    if truth.keypoints is None:
        return np.zeros((len(truth.labels), len(source.keypoints.names), 3))
    return truth.keypoints


def _object_joints(points: Num[np.ndarray, "k 3"]) -> dict[str, Any]:
    return {"keypoints": points.astype(np.float64).ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}


def _found(collector: DetectionCollector, ranks: dict[int, int], kind: str) -> list[dict[str, Any]]:
    """The detections, each only with what `kind` is about: "bbox" would decide the size of masks and poses too."""
    found = collector.collected()
    if not len(found.scores):
        return []
    values = {"boxes": _found_boxes, "masks": _found_masks, "keypoints": _found_joints}[kind](found, collector.source)
    rows = zip(found.samples.tolist(), (found.labels + 1).tolist(), found.scores.tolist(), values)
    return [
        {"image_id": ranks[sample], "category_id": label, "score": score, **value}
        for sample, label, score, value in rows
    ]


def _found_boxes(found: CollectedDetections, source: Source) -> list[dict[str, Any]]:
    # An empty segmentation stops loadRes from making one of the box, a third of its time.
    return [{"bbox": box, "segmentation": []} for box in xyxy_to_xywh(found.boxes).tolist()]


def _found_masks(found: CollectedDetections, source: Source) -> list[dict[str, Any]]:
    if found.masks is None:
        raise ValueError("the model gives no masks to evaluate; leave the kind 'masks' out, or give it a mask head")
    return [{"segmentation": runs} for runs in found.masks]


def _found_joints(found: CollectedDetections, source: Source) -> list[dict[str, Any]]:
    if found.keypoints is None:
        raise ValueError(
            "the model gives no joints to evaluate; leave the kind 'keypoints' out, or give it such a head"
        )
    names, given = source.keypoints.names, found.keypoints.shape[1]
    if given != len(names):
        raise ValueError(
            f"the model gives {given} joints and the data set {source.name!r} has {len(names)}: {', '.join(names)}; "
            "evaluate on data with the joints the model was trained on"
        )
    return [{"keypoints": pose} for pose in found.keypoints.reshape(len(found.scores), -1).astype(np.float64).tolist()]
