"""Image files without annotations, as a source: what a trained model is shown."""

import os
import pathlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

from segjax.data.images import FileFault, decode, read_size
from segjax.data.source import Annotations, DataError, ImageInfo, KeypointNames, Problems

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".jp2"})
"""Files with these endings are taken from a folder; a file named itself may have any."""


def find_images(paths: Iterable[str | os.PathLike]) -> list[pathlib.Path]:
    """The files among `paths`, and the images in the folders among them, sub-folders included, in order of name.

    Raises:
      DataError: a path does not exist, or a folder holds no image.
    """
    found: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise DataError(f"the folder {path} holds no image: none of its files ends in {_endings()}.")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"there is no file or folder {path}.")
    return list(dict.fromkeys(found))


def _endings() -> str:
    return ", ".join(sorted(SUFFIXES))


def no_objects(keypoints: KeypointNames | None = None) -> Annotations:
    """The annotations of an image of which no objects are known, in a source with these joints."""
    none = np.zeros(0, bool)
    return Annotations(
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int32),
        areas=np.zeros(0, np.float32),
        crowd=none,
        difficult=none,
        ids=(),
        segmentations=(),
        keypoints=None if keypoints is None else np.zeros((0, len(keypoints.names), 3), np.float32),
    )


class ImageFiles:
    """Images by path, with no objects. Implements `segjax.data.source.Source`; an image's id is its path.

    Files that are no images are left out and listed in `problems`.
    """

    name = "images"

    def __init__(
        self,
        paths: Iterable[str | os.PathLike],
        *,
        classes: tuple[str, ...],
        keypoints: KeypointNames | None = None,
    ) -> None:
        """Reads the header of each file. `DataError` where none is usable.

        Args:
            paths: files and folders, as in `find_images`.
            classes: the class map of the model that the images are for.
            keypoints: the joints of that model, where it finds any.
        """
        self.classes = classes
        self.keypoints = keypoints
        self.problems = Problems()
        self._infos: list[ImageInfo] = []
        for path in map(str, find_images(paths)):
            try:
                self._infos.append(ImageInfo(path, path, *read_size(path)))
            except FileFault as fault:
                self.problems.add(fault.kind, path, str(fault), action="skipped")
        if not self._infos:
            raise DataError(f"none of the files can be read as an image: {self.problems.summary()}")

    def __len__(self) -> int:
        return len(self._infos)

    def info(self, index: int) -> ImageInfo:
        """Path and size of image `index`."""
        return self._infos[index]

    def annotations(self, index: int) -> Annotations:
        """No objects."""
        return no_objects(self.keypoints)

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Image `index`, decoded to RGB. `DataError` where it is cut short."""
        info = self._infos[index]
        return decode(info.path, image_id=info.image_id, size=(info.height, info.width))
