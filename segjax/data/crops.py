"""A data set in which each person is an image of its own: what models that find one pose an image learn from."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from segjax.data.source import Annotations, DataError, ImageInfo, Source


def crop_window(box: Float[np.ndarray, "4"], size: tuple[int, int], *, factor: float) -> Int[np.ndarray, "4"]:
    """The whole pixels, `xyxy`, of a box enlarged about its centre by `factor`, as far as the image reaches.

    Args:
        box: `xyxy` in pixels.
        size: (height, width) of the image.
        factor: of both sides, at least 1.
    """
    corners = box.astype(np.float64).reshape(2, 2)
    centre, half = corners.mean(axis=0), factor * (corners[1] - corners[0]) / 2
    low, high = np.floor(centre - half), np.ceil(centre + half)
    return np.clip(np.concatenate([low, high]), 0, np.tile(size[::-1], 2)).astype(np.int64)


def labelled_inside(points: Float[np.ndarray, "*b 3"], window: Int[np.ndarray, "4"]) -> Bool[np.ndarray, "*b"]:
    """Which joints (x, y, visibility) have a label and lie in the window, its edges included."""
    return ((points[..., :2] >= window[:2]) & (points[..., :2] <= window[2:])).all(axis=-1) & (points[..., 2] > 0)


class CropSource:
    """The objects of `source` that have labelled joints, each an image cropped around its box (`crop_window`).

    Implements `segjax.data.source.Source`. Nothing is resized: boxes and joints are shifted by whole pixels, and areas
    stay as they are, so that similarities of joints (OKS) are those of the whole images. A joint outside the window
    loses its label. Other objects inside a window are not among its annotations, and segmentations are dropped.
    The id of a crop is "<image id>:<annotation id>".

    Crowd and difficult objects and those without a labelled joint are left out. The latter, and the objects of which
    joints lose their label, are in `problems`.

    Attributes:
        classes: the one class that the objects have.
        category_ids: its id in the files, where the source states such ids.
    """

    def __init__(self, source: Source, *, factor: float) -> None:
        """Reads the annotations of all images.

        Args:
            source: with joints.
            factor: how many times as wide and high as the box the window is.

        Raises:
            ValueError: the factor is below 1, or the source has no joints.
            DataError: no object has a labelled joint, or objects of several classes do.
        """
        if not 1 <= factor < np.inf:
            raise ValueError(f"crops are {factor} times their box: the factor must be a number from 1 on.")
        if source.keypoints is None:
            raise ValueError(
                f"{source.name} has no joints, and crops are of objects that have: read it with keypoints."
            )
        self._source = source
        self.name, self.keypoints, self.problems = f"{source.name}_crops", source.keypoints, source.problems
        found = [place for index in range(len(source)) for place in self._places(index, factor)]
        if not found:
            raise DataError(f"{source.name}: no object has a labelled joint, so that there is nothing to crop to.")
        owners, rows, ids, labels, windows = zip(*found)
        self._owners, self._rows, self._ids = np.array(owners), np.array(rows), ids
        self._windows = np.stack(windows)
        label = self._only(labels)
        self.classes = (source.classes[label],)
        if ids := getattr(source, "category_ids", None):
            self.category_ids = (ids[label],)

    def __len__(self) -> int:
        return len(self._owners)

    def info(self, index: int) -> ImageInfo:
        """Id of the image and the object, path of the file, size of the crop."""
        info, (x1, y1, x2, y2) = self._source.info(int(self._owners[index])), self._windows[index].tolist()
        return ImageInfo(f"{info.image_id}:{self._ids[index]}", info.path, y2 - y1, x2 - x1)

    def annotations(self, index: int) -> Annotations:
        """The one object, in pixels of the crop."""
        found = self._source.annotations(int(self._owners[index])).only(int(self._rows[index]))
        x1, y1 = self._windows[index, :2].tolist()
        points = found.keypoints
        at = points[..., :2] - np.array([x1, y1], points.dtype)
        inside = labelled_inside(points, self._windows[index])
        return dataclasses.replace(
            found,
            boxes=found.boxes - np.array([x1, y1] * 2, found.boxes.dtype),
            labels=np.zeros_like(found.labels),
            segmentations=(None,),
            keypoints=np.concatenate([at, points[..., 2:]], axis=-1) * inside[..., None],
        )

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The window of the image. `DataError` as `Source.image`."""
        x1, y1, x2, y2 = self._windows[index].tolist()
        return np.ascontiguousarray(self._source.image(int(self._owners[index]))[y1:y2, x1:x2])

    def _places(self, index: int, factor: float) -> list[tuple]:
        """(image, row, id, label, window) of each object of an image that is cropped to. What is lost is noted."""
        found, info = self._source.annotations(index), self._source.info(index)
        places = []
        for row in np.flatnonzero(found.counted).tolist():
            points, own_id = found.keypoints[row], found.ids[row]
            where = f"image {info.image_id}, annotation {own_id}"
            labelled = int((points[:, 2] > 0).sum())
            if not labelled:
                kind = "object without a labelled joint"
                self.problems.add(kind, info.image_id, where, action="not cropped to", annotation_id=own_id)
                continue
            window = crop_window(found.boxes[row], (info.height, info.width), factor=factor)
            if outside := labelled - int(labelled_inside(points, window).sum()):
                kind, detail = "joints outside their crop", f"{where}: {outside} of {labelled} joints"
                self.problems.add(kind, info.image_id, detail, action="label dropped", annotation_id=own_id)
            places.append((index, row, own_id, int(found.labels[row]), window))
        return places

    def _only(self, labels: tuple[int, ...]) -> int:
        several = [self._source.classes[label] for label in sorted(set(labels))]
        if len(several) > 1:
            raise DataError(
                f"{self._source.name}: objects of several classes have joints ({', '.join(several)}), and crops are "
                "of one: name it with data.classes."
            )
        return labels[0]
