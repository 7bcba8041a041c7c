"""COCO's instances as label maps: the class of each pixel, drawn from the objects' segmentations."""

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from segjax.data.coco import CocoSource
from segjax.data.files import no_objects
from segjax.data.mask_codes import check_count
from segjax.data.masks import draw_masks
from segjax.data.source import Annotations, DataError, ImageInfo
from segjax.types import IGNORE

BACKGROUND = "background"
COCO_VOC_CLASSES = (
    BACKGROUND,
    "airplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dining table",
    "dog",
    "horse",
    "motorcycle",
    "person",
    "potted plant",
    "sheep",
    "couch",
    "train",
    "tv",
)
"""COCO's names of VOC's classes, in VOC's order: what torchvision's models of segmentation tell apart."""


class CocoLabelMaps:
    """A COCO data set as label maps. Implements `segjax.data.source.LabelMapSource`; it knows no objects.

    The rule is that of torchvision's reference training (references/segmentation/coco_utils.py), so that scores
    compare. A pixel has the class of the one object that covers it. One that several cover does not count, also where
    they are of one class. Crowd regions are objects like others. What no object covers, or only objects of categories
    that are not among the classes, is background.

    An object whose segmentation is missing or malformed (listed in `problems`) may be anywhere in its box: the pixels
    there that no other object covers do not count. Images without objects are kept.
    """

    keypoints = None
    colours = None

    def __init__(
        self,
        annotations: str | os.PathLike,
        images: str | os.PathLike,
        *,
        name: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Reads the annotations.

        Args:
            annotations: the JSON file, `instances_*.json`.
            images: the folder that `file_name` is relative to.
            name: of the data set; the JSON file's name by default.
            classes: "background" and the categories to tell apart, for instance `COCO_VOC_CLASSES`. By default all of
                the file's in the order of their ids.

        Raises:
            DataError: as `CocoSource`; or one of `classes` is no category of the file.
            ValueError: `classes` does not begin with "background".
        """
        if classes is not None and tuple(classes[:1]) != (BACKGROUND,):
            raise ValueError(f"the classes of label maps of COCO begin with {BACKGROUND!r}, not with {classes[:1]}")
        self._source = CocoSource(annotations, images, name=name, classes=None if classes is None else classes[1:])
        self.name, self.problems = self._source.name, self._source.problems
        self.classes = (BACKGROUND, *self._source.classes)
        check_count(self.classes)
        known = zip(self._source.classes, self._source.category_ids)
        if missing := [category for category, found in known if found is None]:
            raise DataError(f"{os.fspath(annotations)!r} has no category {missing[0]!r}; name the classes as it does.")

    def __len__(self) -> int:
        return len(self._source)

    def info(self, index: int) -> ImageInfo:
        """As of `CocoSource`."""
        return self._source.info(index)

    def annotations(self, index: int) -> Annotations:
        """No objects."""
        del index
        return no_objects()

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """As of `CocoSource`."""
        return self._source.image(index)

    def label_map(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """The class of each pixel of image `index`, 0 for the background, `IGNORE` where it cannot be told."""
        info, found = self._source.info(index), self._source.annotations(index)
        labels, covered = (np.zeros((info.height, info.width), np.uint8) for _ in range(2))
        unknown = np.zeros(labels.shape, bool)
        for label, box, segmentation in zip(found.labels.tolist(), found.boxes, found.segmentations):
            if segmentation is None:
                (x1, y1), (x2, y2) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
                unknown[y1:y2, x1:x2] = True
                continue
            mask = draw_masks([segmentation], info.height, info.width)[0]
            labels[mask > 0] = label + 1
            covered = np.minimum(covered + mask, 2)
        labels[(covered == 2) | (unknown & (covered == 0))] = IGNORE
        return labels
