"""From a source to one example: which objects are trained on, and what of them is read."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from segjax.data.masks import draw_masks
from segjax.data.proposals import ProposalFile
from segjax.data.source import Annotations, Example, LabelMapSource, Source
from segjax.data.transforms import select

NO_MASK = "objects without a mask"
NO_KEYPOINTS = "objects without keypoints"


class Wanted(NamedTuple):
    """What batches carry beside images, boxes and labels. Nothing else is read or made."""

    masks: bool = False
    label_map: bool = False
    joints: int | None = None
    """Number of joints, where keypoints are wanted."""
    attributes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """(name, shape for one object) of each attribute."""
    proposals: ProposalFile | None = None
    proposal_count: int = 0
    """Number of proposals that a batch has room for in each image."""


BOXES = Wanted()


def check_wanted(
    source: Source, fields: Sequence[str], proposals: ProposalFile | None = None, proposal_count: int = 0
) -> Wanted:
    """What the arguments of the same names of `segjax.data.pipeline.train_batches` ask for.

    Raises:
        ValueError: the source does not have a field, or the proposals are of another source or there is no room for
            any.
    """
    found = source.annotations(0).attributes
    unknown = [name for name in fields if name not in ("masks", "keypoints", "label_map", *found)]
    if unknown:
        raise ValueError(
            f"{source.name} has no {unknown[0]!r} to put into batches; fields may be 'masks', 'keypoints', 'label_map' "
            f"or an attribute that the source reads: {', '.join(map(repr, found)) or 'none'}"
        )
    if "keypoints" in fields and source.keypoints is None:
        raise ValueError(f"{source.name} has no keypoints; read it with them (keypoints=True) or leave out 'keypoints'")
    if "masks" in fields and not _has_masks(source):
        raise ValueError(f"{source.name} has no masks; read it with segmentations or leave out 'masks'")
    if "label_map" in fields and not isinstance(source, LabelMapSource):
        raise ValueError(
            f"{source.name} has no label maps, and the model learns from them; read it with a source that has them "
            "(segjax.data.label_maps) or leave out 'label_map'"
        )
    if (proposals is None) != (proposal_count == 0) or proposal_count < 0:
        raise ValueError(f"proposal_count={proposal_count} must be positive with proposals, and 0 without")
    if proposals is not None and len(proposals) != len(source):
        raise ValueError(f"the proposals are of {len(proposals)} images, {source.name} has {len(source)}")
    return Wanted(
        masks="masks" in fields,
        label_map="label_map" in fields,
        joints=len(source.keypoints.names) if "keypoints" in fields else None,
        attributes=tuple((name, found[name].shape[1:]) for name in fields if name in found),
        proposals=proposals,
        proposal_count=proposal_count,
    )


def _has_masks(source: Source) -> bool:
    return any(s is not None for i in range(len(source)) for s in source.annotations(i).segmentations)


def training_example(source: Source, index: int, wanted: Wanted = BOXES) -> tuple[Example, dict[str, int]]:
    """Image `index` with the objects that are trained on: neither crowd regions nor difficult ones.

    An object that lacks a mask has an empty one, an object that lacks keypoints has all of visibility 0, and one that
    lacks an attribute NaN: it is trained on as a box.

    Returns the example, and the numbers of objects, of those left out and of those that lack what is wanted, by reason.
    DataError as `Source.image` and `LabelMapSource.label_map`.
    """
    annotations = source.annotations(index)
    usable = annotations.counted
    counts = {
        "images": 1,
        "objects": len(usable),
        "crowd objects left out": int(annotations.crowd.sum()),
        "difficult objects left out": int((annotations.difficult & ~annotations.crowd).sum()),
    }
    image = source.image(index)
    example = Example(
        image=image,
        boxes=annotations.boxes[usable].astype(np.float32),
        labels=annotations.labels[usable].astype(np.int32),
        extra={name: annotations.attributes[name][usable].astype(np.float32) for name, _ in wanted.attributes},
    )
    more: dict[str, Any] = {}
    if wanted.masks:
        segmentations = [annotations.segmentations[i] for i in np.flatnonzero(usable)]
        more["masks"] = draw_masks(segmentations, *image.shape[:2])
        counts[NO_MASK] = sum(segmentation is None for segmentation in segmentations)
    if wanted.joints is not None:
        more["keypoints"] = _labelled(annotations, usable)
        counts[NO_KEYPOINTS] = int((more["keypoints"][..., 2] == 0).all(axis=1).sum())
    if wanted.label_map:
        more["label_map"] = source.label_map(index)
    if wanted.proposals is not None:
        more["proposals"], more["proposal_scores"] = wanted.proposals(index)
        counts["proposals"] = len(more["proposals"])
    return dataclasses.replace(example, **more), counts


def _labelled(annotations: Annotations, usable: np.ndarray) -> Float[np.ndarray, "n k 3"]:
    points = annotations.keypoints[usable].astype(np.float32)
    return np.where(points[..., 2:] > 0, points, np.float32(0))


def keep_largest(example: Example, capacity: int) -> Example:
    """The example with its `capacity` largest boxes by area, in their order; of equal ones the first."""
    if len(example.labels) <= capacity:
        return example
    width, height = (example.boxes[:, 2:] - example.boxes[:, :2]).T
    largest = np.argsort(-width * height, kind="stable")[:capacity]
    keep = np.zeros(len(example.labels), bool)
    keep[largest] = True
    return select(example, keep)
