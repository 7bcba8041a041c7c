"""What a detector found, drawn: ground truth beside prediction for a report, and pictures for `train.predict`."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Num, UInt8

from segjax.data.segmentations import segmentation_to_mask
from segjax.data.source import Annotations, KeypointNames
from segjax.evaluation.evaluator import CollectedDetections, DetectionCollector
from segjax.evaluation.image_errors import ImageErrors, best_and_worst, detections_of, image_errors
from segjax.visualize import draw_objects, side_by_side
from train.report import Picture, Pictures, Section, Text

SCORE_THRESHOLD = 0.5
JOINT_SCORE = 2.0
"""A found joint is drawn from this heat-map logit on: the threshold of Detectron's own pictures of poses."""


def draw_found(
    image: UInt8[np.ndarray, "h w 3"],
    found: CollectedDetections,
    *,
    classes: Sequence[str],
    keypoints: KeypointNames | None = None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image with all of `found`: boxes named by class, score and scalar extra values, masks, and the joints that
    score `JOINT_SCORE` or more.

    Args:
        image: As in its file, which is what the detections are in pixels of.
        found: The detections of this image alone, those to be drawn.
        classes: The class map.
        keypoints: The joints and their skeleton, where they are known; without, joints are drawn and no bones.
    """
    masks = None if found.masks is None else _decoded(found.masks, image)
    return draw_objects(
        image,
        found.boxes,
        found.labels,
        found.scores,
        masks=masks,
        keypoints=None if found.keypoints is None else shown_joints(found.keypoints),
        skeleton=() if keypoints is None else keypoints.skeleton,
        classes=classes,
        notes=notes_of(found.extra, len(found.boxes)),
    )


def draw_truth(
    image: UInt8[np.ndarray, "h w 3"],
    truth: Annotations,
    *,
    classes: Sequence[str],
    keypoints: KeypointNames | None = None,
    like: CollectedDetections | None = None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The image with its ground truth: boxes named by class and scalar attributes, masks and poses.

    `like` leaves out what detections of that model do not have, so that the two pictures can be compared.
    """
    masked = any(s is not None for s in truth.segmentations) and (like is None or like.masks is not None)
    posed = truth.keypoints is not None and (like is None or like.keypoints is not None)
    attributes = {name: v for name, v in truth.attributes.items() if like is None or name in like.extra}
    return draw_objects(
        image,
        truth.boxes,
        truth.labels,
        masks=_decoded(truth.segmentations, image) if masked else None,
        keypoints=truth.keypoints if posed else None,
        skeleton=() if keypoints is None else keypoints.skeleton,
        classes=classes,
        notes=notes_of(attributes, len(truth.boxes)),
    )


def _decoded(segmentations: Sequence, image: np.ndarray) -> Bool[np.ndarray, "n h w"]:
    """Masks over the image, empty where there is no segmentation."""
    masks = np.zeros((len(segmentations), *image.shape[:2]), bool)
    for mask, segmentation in zip(masks, segmentations):
        if segmentation is not None:
            mask[:] = segmentation_to_mask(segmentation, *image.shape[:2])
    return masks


def shown_joints(keypoints: Float[np.ndarray, "n k 3"]) -> Num[np.ndarray, "n k 3"]:
    """Found joints (x, y, score) as (x, y, visibility): visible from `JOINT_SCORE` on, else not drawn."""
    visible = np.where(keypoints[..., 2:] >= JOINT_SCORE, 2.0, 0.0)
    return np.concatenate([keypoints[..., :2], visible], axis=-1)


def notes_of(values: Mapping[str, Float[np.ndarray, "n ..."]], count: int) -> list[str]:
    """For each of `count` objects the values that are one finite number each, as "angle=31.2 depth=4"."""
    scalar = {name: column.reshape(count) for name, column in values.items() if column.size == count}
    return [
        " ".join(f"{name}={column[i]:.3g}" for name, column in scalar.items() if np.isfinite(column[i]))
        for i in range(count)
    ]


def picture_sections(collector: DetectionCollector, *, count: int) -> list[Section]:
    """The worst and the best images, ground truth beside what was predicted, each with its errors as caption."""
    rows = image_errors(collector, score_threshold=SCORE_THRESHOLD)
    best, worst = best_and_worst(rows, count)
    note = (
        f"Ground truth left, detections from score {SCORE_THRESHOLD} on right. Errors are objects missed and "
        "detections that are wrong: on nothing, of the wrong class, or of an object found before (IoU 0.50). "
        "Crowd and difficult objects are drawn but not counted."
    )
    if collector.collected().keypoints is not None:
        note += f" Found joints are drawn from a heat-map score of {JOINT_SCORE:g} on."
    sections = []
    for title, chosen in (("Worst images", worst), ("Best images", best)):
        if chosen:
            pictures = [error_picture(collector, row) for row in chosen]
            sections.append(Section(title, [Text(note), Pictures(pictures)]))
    return sections


def error_picture(collector: DetectionCollector, row: ImageErrors) -> Picture:
    """An image with its ground truth beside what was predicted, and its errors in words."""
    source = collector.source
    image, truth = source.image(row.sample), source.annotations(row.sample)
    found = detections_of(collector, row.sample)
    found = found.select(found.scores >= SCORE_THRESHOLD)
    names = {"classes": source.classes, "keypoints": source.keypoints}
    pair = side_by_side(draw_truth(image, truth, like=found, **names), draw_found(image, found, **names))
    missed = f"{row.missed} of {row.objects} objects missed" if row.objects else "no objects"
    return Picture(pair, f"Image {source.info(row.sample).image_id}: {missed}, {row.wrong} wrong detections")
