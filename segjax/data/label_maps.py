"""Images with a mask file each that says the class of every pixel: from lists, folders, VOC's layout, scenes."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from segjax.data.files import find_images, no_objects
from segjax.data.images import FileFault, Folder, decode, read_size
from segjax.data.mask_codes import Code, Colour, IdCode, check_count, check_size, read_label_map
from segjax.data.scenes import CLASSES as SCENE_CLASSES
from segjax.data.source import Annotations, DataError, ImageInfo, Problems
from segjax.data.voc import SUFFIXES, VOC_CLASSES

SKIPPED = "image skipped"
VOC_LABELS = ("background", *VOC_CLASSES)
"""The classes of VOC's label maps, whose index is the number in the file."""
SCENE_LABELS = ("background", *SCENE_CLASSES)
"""The classes of the label maps of `segjax.data.scenes`."""


class Pair(NamedTuple):
    """An image and its mask."""

    image_id: str
    image: str
    """Path of the image file."""
    mask: str
    """Path of the mask file."""


class MaskFiles:
    """Images whose classes are in mask files. Implements `segjax.data.source.LabelMapSource`; it knows no objects.

    Images of which a file is missing or damaged, or whose mask has another size, are left out and listed in `problems`.
    What is wrong with the pixels of a mask shows when it is read, as a `DataError`.
    """

    keypoints = None

    def __init__(
        self,
        pairs: Iterable[Pair],
        *,
        name: str,
        classes: Sequence[str],
        code: Code | None = None,
        colours: Sequence[Colour] | None = None,
        problems: Problems | None = None,
    ) -> None:
        """Reads the headers of all files.

        Args:
            pairs: the files.
            name: of the data set.
            classes: at most 255.
            code: what the pixels of the masks mean; by default the number i is class i, and 255 does not count.
            colours: RGB of each class, where the data set states them.
            problems: those met while finding the pairs.

        Raises:
            DataError: no image can be used.
        """
        check_count(classes)
        self.name, self.classes = name, tuple(classes)
        self.colours = None if colours is None else tuple(colours)
        self.problems = Problems() if problems is None else problems
        self._code = IdCode(tuple(range(len(self.classes)))) if code is None else code
        self._infos: list[ImageInfo] = []
        self._masks: list[str] = []
        for pair in pairs:
            self._add(pair)
        if not self._infos:
            faults = self.problems.summary(examples=1).replace("\n", "; ") or "there are none"
            raise DataError(f"{name}: no image with its label map can be used: {faults}.")

    def _add(self, pair: Pair) -> None:
        try:
            size = read_size(pair.image)
            check_size(read_size(pair.mask), size, repr(pair.mask))
        except FileFault as fault:
            self.problems.add(fault.kind, pair.image_id, str(fault), action=SKIPPED)
            return
        self._infos.append(ImageInfo(pair.image_id, pair.image, *size))
        self._masks.append(pair.mask)

    def __len__(self) -> int:
        return len(self._infos)

    def info(self, index: int) -> ImageInfo:
        """Id, path and size of image `index`."""
        return self._infos[index]

    def annotations(self, index: int) -> Annotations:
        """No objects."""
        del index
        return no_objects()

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Image `index` as RGB; EXIF orientation is not applied. `DataError` as `images.decode` says."""
        image_id, path, height, width = self._infos[index]
        return decode(path, image_id=image_id, size=(height, width))

    def label_map(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """The classes of image `index`. `DataError` as `mask_codes.read_label_map` says."""
        info, mask = self._infos[index], self._masks[index]
        return read_label_map(mask, self._code, where=repr(mask), size=(info.height, info.width))


def from_list(
    file: str | os.PathLike,
    *,
    root: str | os.PathLike,
    classes: Sequence[str],
    code: Code | None = None,
    colours: Sequence[Colour] | None = None,
    name: str | None = None,
) -> MaskFiles:
    """Images and masks that a text file lists: image path, mask path, image path, ..., apart by white space or lines.

    Where a line has a tab, it is one pair with a tab in between, and its paths may have spaces.

    Paths are relative to `root`, also where they begin with "/": lists are often written with the folders of the
    machine they were made on. How many leading folders are to be dropped is found once for the images and once for the
    masks, and holds for all lines: the fewest with which a file exists, of the first line that has such a file. So
    "/SegNet/CamVid/train/a.png" under the root "CamVid", which has "train/a.png", drops two.

    The image id is the image's path after that. Args and errors as of `MaskFiles`; `DataError` also where the list
    cannot be read, a line is no pair, or no path of it exists under `root`.
    """
    folder, problems = Folder(root), Problems()
    columns = list(zip(*_pairs_of_lines(file)))
    found = [_without_prefix(folder, paths, file) for paths in columns]
    pairs = []
    for names, times in Counter(zip(*found)).items():
        _note_repeated(problems, names[0], times)
        try:
            pairs.append(Pair(names[0], *map(folder.find, names)))
        except FileFault as fault:
            problems.add("missing file", names[0], f"{names[0]}: {fault}", action=SKIPPED)
    return MaskFiles(
        pairs, name=name or Path(file).stem, classes=classes, code=code, colours=colours, problems=problems
    )


def _pairs_of_lines(file: str | os.PathLike) -> list[tuple[str, str]]:
    try:
        lines = Path(file).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {os.fspath(file)!r} cannot be read: {error}.") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        tabbed = "\t" in line.strip()
        words = [word.strip() for word in line.strip().split("\t")] if tabbed else line.split()
        if len(words) % 2 or (tabbed and len(words) != 2) or not all(words):
            raise DataError(
                f"{os.fspath(file)!r}, line {number}: {line[:200]!r} is not the path of an image and of its mask; "
                "separate the two by a tab where they have spaces."
            )
        pairs += zip(words[::2], words[1::2])
    if not pairs:
        raise DataError(f"the list {os.fspath(file)!r} names no image.")
    return pairs


def _without_prefix(folder: Folder, paths: Sequence[str], file: str | os.PathLike) -> list[str]:
    """The paths without as many leading folders as the rule of `from_list` drops."""
    split = [[part for part in path.replace("\\", "/").split("/") if part not in ("", ".")] for path in paths]
    for parts in split:
        for drop in range(len(parts)):
            if _exists(folder, "/".join(parts[drop:])):
                return ["/".join(other[drop:] or other[-1:]) for other in split]
    raise DataError(
        f"{os.fspath(file)!r}: no path in it exists under {folder.root!r}, neither as it is nor without its leading "
        f"folders; the first is {paths[0]!r}. Name the folder that holds the files as the root."
    )


def _exists(folder: Folder, path: str) -> bool:
    try:
        return bool(folder.find(path))
    except FileFault:
        return False


def from_folders(
    images: str | os.PathLike,
    masks: str | os.PathLike,
    *,
    classes: Sequence[str],
    suffix: str = ".png",
    code: Code | None = None,
    colours: Sequence[Colour] | None = None,
    name: str | None = None,
) -> MaskFiles:
    """All images of a folder, sub-folders included, whose masks have their names with another ending.

    The mask of `images`/a/b.jpg is `masks`/a/b`suffix`: with "_L.png" as in CamVid, it is `masks`/a/b_L.png. The two
    folders may be the same. The image id is the image's path in its folder.

    An image without a mask and a mask without an image are listed in `problems` and left out. Args and errors as of
    `MaskFiles`; `DataError` also where a folder does not exist or holds no image.
    """
    if not suffix:
        raise ValueError("suffix must not be empty: it is the end of a mask's file name, '.png' or '_L.png'")
    for folder, holds in ((images, "image"), (masks, "mask")):
        Folder(folder, holds=holds)  # says so where it is none
    images, masks = Path(images).resolve(), Path(masks).resolve()
    problems, pairs = Problems(), []
    left = {path for path in masks.rglob(f"*{suffix}") if path.is_file()}
    for path in find_images([images]):
        mask = masks / path.relative_to(images).with_name(path.stem + suffix)
        if mask in left and mask != path:
            pairs.append(Pair(path.relative_to(images).as_posix(), str(path), str(mask)))
        elif path not in left:
            image_id = path.relative_to(images).as_posix()
            problems.add("image without a label map", image_id, f"{str(path)!r} has no {str(mask)!r}", action=SKIPPED)
    for mask in sorted(left - {Path(pair.mask) for pair in pairs}):
        detail = f"{str(mask)!r} has no image of its name in {str(images)!r}"
        problems.add("label map without an image", str(mask.relative_to(masks)), detail, action="mask skipped")
    return MaskFiles(pairs, name=name or images.name, classes=classes, code=code, colours=colours, problems=problems)


def from_voc(
    root: str | os.PathLike, *, split: str, masks: str = "SegmentationClass", name: str | None = None
) -> MaskFiles:
    """A split of Pascal VOC's segmentation: 21 classes with the background, void pixels (255) do not count.

        root/ImageSets/Segmentation/<split>.txt     stems, one a line
        root/JPEGImages/<stem>.jpg
        root/SegmentationClass/<stem>.png           palette images whose indices are the classes

    Args:
        root: the folder that holds the three above.
        split: "train", "val", "trainval": a file in ImageSets/Segmentation.
        masks: the folder of the masks. Sets that extend VOC have further ones of the same form.

    Raises:
        DataError: a folder or the split is missing, or nothing can be used.
    """
    root, problems, pairs = Path(root), Problems(), []
    images, labels = Folder(root / "JPEGImages"), Folder(root / masks, holds="mask")
    lists = root / "ImageSets" / "Segmentation"
    try:
        stems = (lists / f"{split}.txt").read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        found = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        raise DataError(f"split {split!r} cannot be read from {str(lists)!r}; there are: {found}.") from error
    for stem, times in Counter(stems).items():
        _note_repeated(problems, stem, times)
        try:
            pairs.append(Pair(stem, _image_of(images, stem), labels.find(f"{stem}.png")))
        except FileFault as fault:
            problems.add(fault.kind, stem, f"image {stem}: {fault}", action=SKIPPED)
    name = name or f"{root.resolve().name}_{split}"
    return MaskFiles(pairs, name=name, classes=VOC_LABELS, colours=voc_colours(len(VOC_LABELS)), problems=problems)


def _note_repeated(problems: Problems, image_id: str, times: int) -> None:
    if times > 1:
        problems.add("duplicate line", image_id, f"{image_id} is listed {times} times", action="read once")


def _image_of(images: Folder, stem: str) -> str:
    """The image file of a stem, with the first suffix that there is."""
    return images.find(next((stem + end for end in SUFFIXES if _exists(images, stem + end)), stem + SUFFIXES[0]))


def voc_colours(count: int) -> tuple[Colour, ...]:
    """The colours of VOC's palette: the bits of an id, three at a time, are spread over R, G and B from the highest.

    The VOC 2012 development kit, VOClabelcolormap.
    """

    def spread(number: int, channel: int) -> int:
        return sum((number >> (3 * i + channel) & 1) << (7 - i) for i in range(3))

    return tuple((spread(i, 0), spread(i, 1), spread(i, 2)) for i in range(count))


def from_scenes(folder: str | os.PathLike, *, name: str | None = None) -> MaskFiles:
    """The label maps of a split that `segjax.data.scenes` drew: the background, then its classes."""
    images, masks = (Path(folder) / part for part in ("images", "semantic"))
    return from_folders(images, masks, classes=SCENE_LABELS, name=name or Path(folder).name)
