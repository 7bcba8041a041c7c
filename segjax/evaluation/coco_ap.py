"""COCO average precision of boxes, computed by faster-coco-eval, which equals pycocotools (Lin et al. 2014)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from jaxtyping import Array, Float, Int

from segjax.evaluation.evaluator import DetectionCollector, Source, xyxy_to_xywh
from segjax.types import Detections

IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
AREAS = ("all", "small", "medium", "large")
"""COCO's object sizes: small below 32², large from 96² square pixels."""
MAX_DETECTIONS = (1, 10, 100)


class PrecisionRecall(NamedTuple):
    """Interpolated precision at 101 recalls for each class at one IoU threshold."""

    iou_threshold: float
    classes: tuple[str, ...]
    recall: Float[np.ndarray, "r"]
    precision: Float[np.ndarray, "k r"]
    """0 at recalls never reached; NaN for a class without objects."""
    scores: Float[np.ndarray, "k r"]
    """The score threshold that reaches each recall; NaN where none does."""


class CocoAP:
    """The twelve COCO numbers, and AP and AP50 of each class, over the images that were given to `update`.

    Images never given are left out, objects and all, so that a subset can be evaluated. Difficult objects (VOC)
    count as crowd: neither demanded nor punished, since COCO's rules know no other kind of object to ignore.
    At most 100 detections of a class in an image count, by COCO's rule. A score that no object
    decides (AP_small without small objects) is NaN.
    """

    def __init__(self, source: Source, *, classes: Sequence[str]) -> None:
        """`classes`: the class map of the model; `ValueError` where it is not that of `source`."""
        self.collector = DetectionCollector(source, classes=classes)
        self._tables: dict[str, np.ndarray] | None = None

    def update(
        self, samples: Int[Array | np.ndarray, "b"], sizes: Int[Array | np.ndarray, "b 2"], detections: Detections
    ) -> None:
        """Adds the detections of one batch; arguments as in `Evaluator.update`."""
        self.collector.update(samples, sizes, detections)
        self._tables = None

    def compute(self) -> dict[str, float]:
        """AP, AP50, AP75, AP_small, AP_medium, AP_large, AR1, AR10, AR100, AR_small, AR_medium, AR_large in 0..1,
        then `AP/<class>` and `AP50/<class>` of each class. NaN where there is nothing to find."""
        tables = self._evaluate()
        precision, recall = tables["precision"], tables["recall"]  # [iou, recall, class, area, limit], without recall
        scores = {
            "AP": _mean(precision[:, :, :, 0, -1]),
            "AP50": _mean(precision[0, :, :, 0, -1]),
            "AP75": _mean(precision[5, :, :, 0, -1]),
        }
        scores |= {f"AP_{area}": _mean(precision[:, :, :, a, -1]) for a, area in enumerate(AREAS) if a > 0}
        scores |= {f"AR{limit}": _mean(recall[:, :, 0, m]) for m, limit in enumerate(MAX_DETECTIONS)}
        scores |= {f"AR_{area}": _mean(recall[:, :, a, -1]) for a, area in enumerate(AREAS) if a > 0}
        classes = self.collector.source.classes
        scores |= {f"AP/{name}": _mean(precision[:, :, k, 0, -1]) for k, name in enumerate(classes)}
        scores |= {f"AP50/{name}": _mean(precision[0, :, k, 0, -1]) for k, name in enumerate(classes)}
        return scores

    def precision_recall(self, iou_threshold: float = 0.5) -> PrecisionRecall:
        """The curves behind `compute` for objects of all sizes at one of COCO's thresholds, 0.5 to 0.95 by 0.05."""
        if round(iou_threshold, 2) not in IOU_THRESHOLDS:
            raise ValueError(f"iou_threshold must be one of {IOU_THRESHOLDS}, got {iou_threshold}")
        tables = self._evaluate()
        t = IOU_THRESHOLDS.index(round(iou_threshold, 2))
        precision = tables["precision"][t, :, :, 0, -1].T
        scores = tables["scores"][t, :, :, 0, -1].T
        return PrecisionRecall(
            iou_threshold=iou_threshold,
            classes=self.collector.source.classes,
            recall=np.linspace(0.0, 1.0, 101),
            precision=np.where(precision < 0, np.nan, precision),
            scores=np.where(precision > 0, scores, np.nan),
        )

    def results(self) -> list[dict[str, Any]]:
        """All detections in COCO's result format; see `DetectionCollector.results`."""
        return self.collector.results()

    def _evaluate(self) -> dict[str, np.ndarray]:
        if self._tables is None:
            self._tables = _coco_tables(self.collector)
        return self._tables


def _mean(values: np.ndarray) -> float:
    """COCO marks entries without objects with -1 and leaves them out of means."""
    present = values[values > -1]
    return float(present.mean()) if present.size else float("nan")


def _coco_tables(collector: DetectionCollector) -> dict[str, np.ndarray]:
    """Precision and scores [10, 101, k, 4, 3] and recall [10, k, 4, 3] as COCOeval leaves them, -1 where undefined."""
    source = collector.source
    ranks = _image_ranks(source, collector.seen)
    if not ranks:
        shape = (len(IOU_THRESHOLDS), 101, len(source.classes), len(AREAS), len(MAX_DETECTIONS))
        empty = np.full(shape, -1.0)
        return {"precision": empty, "scores": empty, "recall": empty[:, 0]}
    truth = COCO({"images": _images(source, ranks), **_categories(source), "annotations": _objects(source, ranks)})
    found = truth.loadRes(_found(collector, ranks))
    run = COCOeval_faster(truth, found, "bbox", print_function=lambda *_: None)
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


def _objects(source: Source, ranks: dict[int, int]) -> list[dict[str, Any]]:
    objects = []
    for sample, rank in ranks.items():
        truth = source.annotations(sample)
        ignored = (truth.crowd | truth.difficult).tolist()
        rows = zip(truth.labels.tolist(), xyxy_to_xywh(truth.boxes).tolist(), truth.areas.tolist(), ignored)
        for label, box, area, ignore in rows:
            row = {"id": len(objects) + 1, "image_id": rank, "category_id": label + 1, "bbox": box}
            objects.append(row | {"area": area, "iscrowd": int(ignore)})
    return objects


def _found(collector: DetectionCollector, ranks: dict[int, int]) -> list[dict[str, Any]]:
    found = collector.collected()
    boxes = xyxy_to_xywh(found.boxes).tolist()
    rows = zip(found.samples.tolist(), (found.labels + 1).tolist(), boxes, found.scores.tolist())
    # An empty segmentation stops loadRes from making one of the box, a third of its time.
    return [
        {"image_id": ranks[sample], "category_id": label, "bbox": box, "score": score, "segmentation": []}
        for sample, label, box, score in rows
    ]
