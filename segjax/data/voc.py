"""Pascal VOC: one XML file an image, splits as lists of file stems."""

import contextlib
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from segjax.data.images import FileFault, Folder, decode, read_size, usable_side
from segjax.data.sanitize import clean_boxes
from segjax.data.source import Annotations, DataError, ImageInfo, Problems

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The 20 classes of VOC 2007 to 2012, in the order of their tables of results."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp")
"""Image files are looked for in this order: VOC has .jpg, other sets in its format have more."""


class _Object(NamedTuple):
    image: int
    annotation_id: str
    name: str
    corners: tuple[float, ...]
    """(xmin, ymin, xmax, ymax) as stated; NaN where one is not a number."""
    difficult: bool


class VocSource:
    """One split of a data set in Pascal VOC's layout. Implements `segjax.data.source.Source`.

        root/Annotations/<stem>.xml
        root/JPEGImages/<stem>.jpg
        root/ImageSets/Main/<split>.txt

    The image id is the stem. The annotation id of an object is "<stem>#<i>", i counting the file's objects from 0.
    Everything that is wrong in the data is in `problems`: what cannot be used is skipped, boxes that leave their image
    are clipped. There are no crowd regions, segmentations or keypoints.
    """

    keypoints = None

    def __init__(
        self,
        root: str | os.PathLike,
        *,
        split: str,
        name: str | None = None,
        classes: tuple[str, ...] | None = None,
        one_based: bool = True,
    ) -> None:
        """Reads the annotations; images are decoded when they are asked for.

        Args:
            root: the folder that holds the three above.
            split: "train", "val", ...: a file in ImageSets/Main. Files that list one class with -1, 0 or 1 behind each
                stem are read too; every image they name is used, whatever its flag.
            name: of the data set; "<root>_<split>" by default.
            classes: the class map to use, for instance that of a checkpoint; objects of other names are skipped. By
                default VOC's 20 classes where the data has no other, else all names in Annotations, sorted: of all
                splits, so that training and validation agree.
            one_based: coordinates count pixels from 1 and include the last, as the VOC development kit says: a box is
                xmin - 1 to xmax. Many other tools count from 0: with False, corners are taken as they are.
                Either way a box whose stated corners coincide is of zero size.

        Raises:
            DataError: a folder, the split or a field is missing, an XML file does not parse, or nothing can be used.
        """
        self._root = os.fspath(root)
        self._images = Folder(Path(root) / "JPEGImages")
        self._xml = Folder(Path(root) / "Annotations", holds="annotation")
        self.name = name or f"{Path(root).resolve().name}_{split}"
        self.problems = Problems()
        self.classes = tuple(classes) if classes is not None else self._all_classes()
        self._split = split
        self._read_objects(self._read_images(self._stems(split)), one_based=one_based)

    def __len__(self) -> int:
        return len(self._stem_of)

    def info(self, index: int) -> ImageInfo:
        """Id, path and stated size of image `index`."""
        height, width = self._sizes[index].tolist()
        return ImageInfo(self._stem_of[index], self._paths[index], height, width)

    def annotations(self, index: int) -> Annotations:
        """The usable objects of image `index`, in the order of the file."""
        rows = slice(self._starts[index], self._starts[index + 1])
        boxes = self._boxes[rows].copy()
        return Annotations(
            boxes=boxes,
            labels=self._labels[rows].copy(),
            areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
            crowd=np.zeros(len(boxes), bool),
            difficult=self._difficult[rows].copy(),
            ids=tuple(self._ids[rows]),
            segmentations=(None,) * len(boxes),
        )

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Image `index` as RGB; EXIF orientation is not applied. `DataError` as `images.decode` says."""
        image_id, path, height, width = self.info(index)
        return decode(path, image_id=image_id, size=(height, width))

    def _all_classes(self) -> tuple[str, ...]:
        names: set[str] = set()
        for file in sorted(file for file in os.listdir(self._xml.root) if file.endswith(".xml")):
            # A link that leads out of the folder is reported where a split names it.
            with contextlib.suppress(FileFault):
                names.update(_name(item, file) for item in _parse(self._xml.find(file)).findall("object"))
        return VOC_CLASSES if names <= set(VOC_CLASSES) else tuple(sorted(names))

    def _stems(self, split: str) -> Iterable[str]:
        """The images of a split, without repetitions."""
        folder = Path(self._root) / "ImageSets" / "Main"
        try:
            lines = (folder / f"{split}.txt").read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            found = ", ".join(sorted(path.stem for path in folder.glob("*.txt"))[:20]) or "none"
            raise DataError(f"Split {split!r} cannot be read from {str(folder)!r}; there are: {found}.") from error
        stems: dict[str, None] = {}
        for stem in filter(None, map(self._stem, lines)):
            if stem in stems:
                detail = f"image {stem} is named again in {split}.txt"
                self.problems.add("duplicate image id", stem, detail, action="image skipped")
            stems[stem] = None
        return stems

    def _stem(self, line: str) -> str:
        """The stem that a line of a split names, without the flag behind it. Stems may hold spaces."""
        line = line.strip()
        head, _, flag = line.replace("\t", " ").rpartition(" ")
        if flag not in ("-1", "0", "1") or os.path.isfile(os.path.join(self._xml.root, f"{line}.xml")):
            return line
        return head.strip()

    def _read_images(self, stems: Iterable[str]) -> list[_Object]:
        """Sets what is known of the images; the objects in them, in order."""
        self._stem_of: list[str] = []
        self._paths: list[str] = []
        sizes, objects = [], []
        for stem in stems:
            try:
                root = _parse(self._xml.find(f"{stem}.xml"))
                path = self._image_path(stem, root)
                sizes.append(self._size(root, stem, path))
            except FileFault as fault:
                self.problems.add(fault.kind, stem, f"image {stem}: {fault}", action="image skipped")
                continue
            objects += _objects(root, stem, len(self._paths))
            self._stem_of.append(stem)
            self._paths.append(path)
        if not sizes:
            raise DataError(self._nothing("none of its images can be used"))
        self._sizes = np.asarray(sizes, np.int32)
        return objects

    def _image_path(self, stem: str, root: ElementTree.Element) -> str:
        """The image beside an annotation file: by its stem as in VOC, else by the name that the file gives."""
        for name in [stem + suffix for suffix in SUFFIXES] + [root.findtext("filename") or ""]:
            try:
                return self._images.find(name)
            except FileFault as fault:
                if fault.kind != "missing image file":
                    raise
        message = f"no {stem + SUFFIXES[0]!r}, nor the same with another suffix, is in {self._images.root}"
        raise FileFault("missing image file", message)

    def _size(self, root: ElementTree.Element, stem: str, path: str) -> tuple[int, int]:
        """(height, width) as stated, or of the file where that cannot be."""
        stated = root.findtext("size/height"), root.findtext("size/width")
        height, width = (_number(text) for text in stated)
        if usable_side(height) and usable_side(width):
            return int(height), int(width)
        detail = f"image {stem} states height {stated[0]!r} and width {stated[1]!r}"
        actual = read_size(path)
        self.problems.add("image without a usable size", stem, detail, action="size read from the file")
        return actual

    def _read_objects(self, objects: list[_Object], *, one_based: bool) -> None:
        total = len(objects)
        label_of = {name: i for i, name in enumerate(self.classes)}
        self._report_left_out([item for item in objects if item.name not in label_of])
        objects = [item for item in objects if item.name in label_of]
        image = np.asarray([item.image for item in objects], np.int64)
        corners = np.asarray([item.corners for item in objects], np.float64).reshape(-1, 4)
        if one_based:
            # Not where corners coincide or are swapped: a click, or a mistake, must not become a box of one pixel.
            corners[(corners[:, :2] < corners[:, 2:]).all(axis=1), :2] -= 1
        boxes, usable = clean_boxes(
            corners,
            self._sizes[image],
            image_ids=[self._stem_of[item.image] for item in objects],
            annotation_ids=[item.annotation_id for item in objects],
            problems=self.problems,
            stated=lambda i: "(xmin, ymin, xmax, ymax) [" + ", ".join(f"{v:g}" for v in objects[i].corners) + "]",
        )
        rows = np.flatnonzero(usable)
        if not len(rows):
            raise DataError(self._nothing(f"none of its {total} objects can be used"))
        kept = [objects[i] for i in rows.tolist()]
        self._boxes = boxes[rows]
        self._labels = np.asarray([label_of[item.name] for item in kept], np.int32)
        self._difficult = np.asarray([item.difficult for item in kept], bool)
        self._ids = [item.annotation_id for item in kept]
        self._starts = np.searchsorted(image[rows], np.arange(len(self) + 1)).tolist()

    def _report_left_out(self, objects: list[_Object]) -> None:
        """One problem a name, at its first object."""
        for name in dict.fromkeys(item.name for item in objects):
            same = [item for item in objects if item.name == name]
            stem, annotation_id = self._stem_of[same[0].image], same[0].annotation_id
            detail = f"image {stem}, annotation {annotation_id} is the first of {len(same)} named {name!r}, no class"
            self.problems.add("unknown category", stem, detail, action="skipped", annotation_id=annotation_id)

    def _nothing(self, why: str) -> str:
        faults = self.problems.summary(examples=1).replace("\n", "; ")
        faults = f" ({faults})" if faults else ""
        return f"Nothing in split {self._split!r} of {self._root!r} can be used: {why}{faults}."


def _parse(path: str) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"The annotation file {path!r} is not XML that can be parsed: {error}.") from error


def _objects(root: ElementTree.Element, stem: str, image: int) -> list[_Object]:
    found = []
    # Direct children only: the parts of a person (VOC's layout task) have a name and a bndbox of their own.
    for i, item in enumerate(root.findall("object")):
        corners = tuple(_number(item.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
        difficult = (item.findtext("difficult") or "0").strip() == "1"
        found.append(_Object(image, f"{stem}#{i}", _name(item, f"{stem}.xml"), corners, difficult))
    return found


def _name(item: ElementTree.Element, file: str) -> str:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise DataError(f"The annotation file {file!r} has an <object> without <name>.")
    return name


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
