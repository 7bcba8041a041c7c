"""A data set of which each image has one object, its main one: for classification with localization."""

import numpy as np
from jaxtyping import UInt8

from segjax.data.source import Annotations, DataError, ImageInfo, Source

NONE = "image without an object"


def main_object(annotations: Annotations) -> int | None:
    """Index of the object of largest visible area, the first of equal ones; None where there is none.

    The area is that of the segmentation where there is one, else of the box. Crowds are not one object, and what is
    marked difficult is not asked for: neither can be the main object.
    """
    areas = np.where(annotations.counted, annotations.areas, -1.0)
    return int(np.argmax(areas)) if areas.max(initial=-1.0) >= 0 else None


class MainObjectSource:
    """The images of `source` that have an object, with the main one alone. Implements `segjax.data.source.Source`.

    Images without an object are left out, each noted in `problems`.

    Raises:
        DataError: no image has an object.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name, self.keypoints, self.problems = source.name, source.keypoints, source.problems
        self.classes = source.classes
        if ids := getattr(source, "category_ids", None):
            self.category_ids = ids
        main = [main_object(source.annotations(i)) for i in range(len(source))]
        self._kept = tuple((i, row) for i, row in enumerate(main) if row is not None)
        if not self._kept:
            raise DataError(
                f"{source.name}: none of its {len(source)} images has an object that is neither a crowd nor difficult, "
                "and each needs a main one; name another part of the data, or other classes"
            )
        for image_id in (source.info(i).image_id for i, row in enumerate(main) if row is None):
            self.problems.add(NONE, image_id, f"image {image_id!r}", action="left out")

    def __len__(self) -> int:
        return len(self._kept)

    def info(self, index: int) -> ImageInfo:
        """As of the source."""
        return self._source.info(self._kept[index][0])

    def annotations(self, index: int) -> Annotations:
        """The main object alone."""
        image, row = self._kept[index]
        return self._source.annotations(image).only(row)

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """As of the source."""
        return self._source.image(self._kept[index][0])
