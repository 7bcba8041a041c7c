"""YOLO's text labels: a file beside each image, with a line `class cx cy w h` for each object."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from segjax.data.files import SUFFIXES
from segjax.data.images import FileFault, Folder, decode, read_size
from segjax.data.sanitize import ROUNDING, clean_boxes
from segjax.data.source import Annotations, DataError, ImageInfo, Problems

NOT_LABELS = "classes.txt"
"""What annotation tools put among the labels: the names of the classes."""


class _Object(NamedTuple):
    image: int
    line: int
    """Of the file, from 1."""
    stated: str
    label: int
    numbers: tuple[float, float, float, float]
    """(cx, cy, w, h), shares of the image's width and height."""


class YoloSource:
    """A data set with labels as Darknet reads them. Implements `segjax.data.source.Source`.

        images/a.jpg, images/b/c.png      images, in sub-folders too
        labels/a.txt, labels/b/c.txt      a line `class cx cy w h` for each object of an image

    Classes are numbers from 0, into a list of names. (cx, cy) is the centre of a box and (w, h) its size, as shares of
    the image's width and height. An image without a file, or with an empty one, has no objects; the former is listed in
    `problems` like all that is wrong: lines that cannot be used are skipped, boxes that leave their image are clipped.
    The image id is the path below the folder without its ending, "b/c"; the annotation id of an object is
    "b/c:<line>", lines counted from 1. There are no crowd regions, segmentations or keypoints.
    """

    keypoints = None

    def __init__(
        self,
        images: str | os.PathLike,
        labels: str | os.PathLike,
        *,
        names: Sequence[str] | str | os.PathLike,
        name: str | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        """Reads the labels and the size of each image, which is decoded when it is asked for.

        Args:
            images: the folder of the images.
            labels: the folder of the label files; it may be the same.
            names: what the numbers of the classes mean, or a file that says it, a name on each line.
            name: of the data set; that of the folder of images by default.
            classes: the class map to use, for instance that of a checkpoint; objects of other names are skipped. By
                default all `names`.

        Raises:
            DataError: a folder or the names are missing, `classes` has a name that `names` lacks, or nothing is usable.
        """
        self._images, self._labels = Folder(images), Folder(labels, holds="label")
        self.name = name or Path(images).resolve().name
        self.problems = Problems()
        self._names = read_names(names) if isinstance(names, str | os.PathLike) else tuple(names)
        self.classes = self._names if classes is None else tuple(classes)
        if lacking := [c for c in self.classes if c not in self._names]:
            raise DataError(f"{self.name} has no class {lacking[0]!r}; its classes are {', '.join(self._names)}.")
        self._infos: list[ImageInfo] = []
        self._keep(list(self._read_all()))

    def __len__(self) -> int:
        return len(self._infos)

    def info(self, index: int) -> ImageInfo:
        """Id, path and size of image `index`."""
        return self._infos[index]

    def annotations(self, index: int) -> Annotations:
        """The usable objects of image `index`, in the order of the file."""
        rows = slice(self._starts[index], self._starts[index + 1])
        boxes = self._boxes[rows].copy()
        none = np.zeros(len(boxes), bool)
        return Annotations(
            boxes=boxes,
            labels=self._label_ids[rows].copy(),
            areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
            crowd=none,
            difficult=none.copy(),
            ids=tuple(self._ids[rows]),
            segmentations=(None,) * len(boxes),
        )

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Image `index` as RGB; EXIF orientation is not applied. `DataError` as `images.decode` says."""
        image_id, path, height, width = self.info(index)
        return decode(path, image_id=image_id, size=(height, width))

    def _read_all(self) -> Iterator[_Object]:
        """The objects whose numbers can be read, in order; sets what is known of the images."""
        stems: dict[str, str] = {}
        label_files = set(_files(self._labels.root, (".txt",)))
        for file in _files(self._images.root, SUFFIXES):
            stem = str(PurePosixPath(file).with_suffix(""))
            try:
                if stem in stems:
                    raise FileFault("duplicate image id", f"{file} has the same label file as {stems[stem]}")
                stems[stem] = file
                path = self._images.find(file)
                size = read_size(path)
                lines = self._lines(stem) if f"{stem}.txt" in label_files else None
            except FileFault as fault:
                self.problems.add(fault.kind, stem, f"image {stem}: {fault}", action="image skipped")
                continue
            if lines is None:
                detail = f"image {stem}: no {stem}.txt is in {self._labels.root}"
                self.problems.add("image without a label file", stem, detail, action="taken to be empty")
            self._infos.append(ImageInfo(stem, path, *size))
            yield from self._objects(lines or [])
        for file in sorted(label_files - {f"{stem}.txt" for stem in stems}):
            if PurePosixPath(file).name != NOT_LABELS:
                stem = file.removesuffix(".txt")
                detail = f"image {stem}: labels are in {file}, and no image of that name is in {self._images.root}"
                self.problems.add("missing image file", stem, detail, action="labels skipped")

    def _lines(self, stem: str) -> list[str]:
        path = self._labels.find(f"{stem}.txt")
        try:
            return Path(path).read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FileFault("unreadable label file", f"{stem}.txt cannot be read as text: {error}") from error

    def _objects(self, lines: Sequence[str]) -> Iterator[_Object]:
        """The objects of the image read last; faults of lines go to `problems`."""
        image, (stem, _, height, width) = len(self._infos) - 1, self._infos[-1]
        # A box may leave the image by as much as rounding makes, as in every other reader of boxes.
        slack = np.array([ROUNDING / width, ROUNDING / height] * 2)
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if not words:
                continue
            values = [_number(word) for word in words]
            kind = None
            if len(words) != 5 or not np.isfinite(values).all():
                kind = "label line that is not five numbers"
            elif values[0] != int(values[0]) or not 0 <= values[0] < len(self._names):
                kind = f"class that is not a whole number from 0 to {len(self._names) - 1}"
            elif (np.array(values[1:]) < -slack).any() or (np.array(values[1:]) > 1 + slack).any():
                kind = "box with numbers outside 0 to 1"
            if kind is None:
                yield _Object(image, number, line.strip(), int(values[0]), tuple(values[1:]))
            else:
                shown = line.strip() if len(line.strip()) <= 80 else line.strip()[:77] + "..."
                detail = f"image {stem}, line {number} of {stem}.txt: {shown!r}"
                self.problems.add(kind, stem, detail, action="skipped", annotation_id=f"{stem}:{number}")

    def _keep(self, objects: list[_Object]) -> None:
        """Sets the boxes that can be used, of the classes asked for."""
        if not self._infos:
            raise DataError(self._nothing("none of its images can be used"))
        total = len(objects)
        label_of = {name: i for i, name in enumerate(self.classes)}
        self._report_left_out([item for item in objects if self._names[item.label] not in label_of])
        objects = [item for item in objects if self._names[item.label] in label_of]
        image = np.asarray([item.image for item in objects], np.int64)
        sizes = np.asarray([(info.height, info.width) for info in self._infos], np.int64)[image]
        cx, cy, w, h = np.asarray([item.numbers for item in objects], np.float64).reshape(-1, 4).T
        shares = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1)
        ids = [f"{self._infos[item.image].image_id}:{item.line}" for item in objects]
        boxes, usable = clean_boxes(
            shares * sizes[:, [1, 0, 1, 0]],
            sizes,
            image_ids=[self._infos[item.image].image_id for item in objects],
            annotation_ids=ids,
            problems=self.problems,
            stated=lambda i: f"(class cx cy w h) {objects[i].stated!r}",
        )
        rows = np.flatnonzero(usable)
        if not len(rows):
            raise DataError(self._nothing(f"none of its {total} objects can be used"))
        self._boxes = boxes[rows]
        self._label_ids = np.asarray([label_of[self._names[objects[i].label]] for i in rows.tolist()], np.int32)
        self._ids = [ids[i] for i in rows.tolist()]
        self._starts = np.searchsorted(image[rows], np.arange(len(self) + 1)).tolist()

    def _report_left_out(self, objects: list[_Object]) -> None:
        """One problem a class, at its first object."""
        for label in dict.fromkeys(item.label for item in objects):
            same = [item for item in objects if item.label == label]
            stem = self._infos[same[0].image].image_id
            at = f"{stem}:{same[0].line}"
            named = f"the first of {len(same)} named {self._names[label]!r}, no class"
            detail = f"image {stem}, annotation {at} is {named}"
            self.problems.add("unknown category", stem, detail, action="skipped", annotation_id=at)

    def _nothing(self, why: str) -> str:
        faults = self.problems.summary(examples=1).replace("\n", "; ")
        faults = f" ({faults})" if faults else ""
        where = f"{self._images.root!r} with the labels of {self._labels.root!r}"
        return f"Nothing in {where} can be used: {why}{faults}."


def read_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The class names in a file with a name on each line. `DataError` where there are none, or one comes twice."""
    try:
        names = [line.strip() for line in Path(path).read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The names of the classes cannot be read from {os.fspath(path)!r}: {error}.") from error
    while names and not names[-1]:
        names.pop()
    # An empty line among the names would shift the numbers of all that follow, if it were left out.
    if not names or "" in names or len(set(names)) < len(names):
        wrong = "is empty" if not names else "has an empty line" if "" in names else "has a name twice"
        raise DataError(f"The file {os.fspath(path)!r} {wrong}: it must have the name of each class on a line.")
    return tuple(names)


def _files(root: str, suffixes: Sequence[str] | frozenset[str]) -> Iterator[str]:
    """Paths below `root` of the files with these endings, in order, with forward slashes."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        below = PurePosixPath(Path(folder).relative_to(root).as_posix())
        yield from (str(below / file) for file in sorted(files) if Path(file).suffix.lower() in suffixes)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return float("nan")
