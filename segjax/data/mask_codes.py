"""What the pixels of a mask file say: numbers or colours in the file, class ids in a label map.

A code turns the one into the other, and names by file what it has no class for: a mask of other classes must not be
trained on in silence.
"""

import dataclasses
import functools
import io
import os
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from segjax.data.images import DECODING_ERRORS, FileFault, open_image, undecodable
from segjax.data.source import DataError
from segjax.types import IGNORE

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""
MAX_CLASSES = IGNORE
"""A label map has a byte for each pixel, one value of which is `IGNORE`."""
UNKNOWN = "label map with pixels of no class"
SHOWN = 5
"""Unknown ids or colours that a message lists, the most frequent first."""


@runtime_checkable
class Code(Protocol):
    """How the pixels of a mask file say their class. Picklable."""

    def read(self, image: Image.Image) -> Integer[np.ndarray, "h w *c"]:
        """The pixels of an opened file as `labels` wants them."""
        ...

    def labels(self, pixels: Integer[np.ndarray, "h w *c"], where: str) -> UInt8[np.ndarray, "h w"]:
        """Class ids, `IGNORE` for pixels that do not count. `DataError`, naming `where`, for pixels of no class."""
        ...


@dataclasses.dataclass(frozen=True)
class IdCode:
    """Masks whose pixels are numbers: grey images, and palette images, whose indices count and not their colours.

    An image of three equal channels is taken for a grey one.
    """

    ids: tuple[int, ...]
    """The numbers that stand for classes, 0 to 255."""
    ignore: tuple[int, ...] = (IGNORE,)
    """Numbers of pixels that do not count, such as those of a void class."""
    classes: tuple[int, ...] = ()
    """The class of each of `ids`; 0, 1, 2, ... where empty. Several numbers may mean the same class."""

    def __post_init__(self) -> None:
        numbers = (*self.ids, *self.ignore)
        if not all(0 <= number <= 255 for number in numbers) or len(set(numbers)) < len(numbers):
            raise ValueError(f"ids={self.ids} and ignore={self.ignore} must be different numbers of 0 to 255")
        if self.classes and (len(self.classes) != len(self.ids) or not all(0 <= i < IGNORE for i in self.classes)):
            raise ValueError(
                f"classes={self.classes} must have a class of 0 to {IGNORE - 1} for each of ids={self.ids}"
            )
        check_count(self.ids)

    def read(self, image: Image.Image) -> Integer[np.ndarray, "h w *c"]:
        """Numbers as stored. Pillow spreads grey of 2 and 4 bits over 0 to 255, and that is undone."""
        raw = image.tile[0][3] if image.tile else None
        pixels = np.asarray(image)
        if pixels.dtype == bool:
            return pixels.astype(np.uint8)
        factor = {"L;2": 85, "L;4": 17}.get(raw if isinstance(raw, str) else "", 1)
        return pixels // np.uint8(factor) if factor > 1 else pixels

    def labels(self, pixels: Integer[np.ndarray, "h w *c"], where: str) -> UInt8[np.ndarray, "h w"]:
        """As `Code.labels`."""
        numbers = self._one_channel(pixels, where)
        if numbers.dtype != np.uint8 and (numbers.min() < 0 or numbers.max() > 255):
            raise self._unknown(numbers, where)
        numbers = np.ascontiguousarray(numbers, np.uint8)
        known, table = self._tables
        if not cv2.LUT(numbers, known).all():
            raise self._unknown(numbers, where)
        return cv2.LUT(numbers, table)

    @functools.cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """By number: 1 where it is known, and its class."""
        known, table = np.zeros(256, np.uint8), np.full(256, IGNORE, np.uint8)
        known[[*self.ids, *self.ignore]] = 1
        table[list(self.ids)] = self.classes or np.arange(len(self.ids))
        return known, table

    def _one_channel(self, pixels: np.ndarray, where: str) -> np.ndarray:
        if pixels.ndim == 2:
            return pixels
        if (pixels[..., 1:] == pixels[..., :1]).all():
            return pixels[..., 0]
        raise FileFault(
            "label map in colour", f"{where} has {pixels.shape[2]} channels that differ: colours and no ids; "
            "read it by a table of the colours of its classes."
        )  # fmt: skip

    def _unknown(self, numbers: np.ndarray, where: str) -> FileFault:
        values, counts = np.unique(numbers, return_counts=True)
        unknown = ~np.isin(values, (*self.ids, *self.ignore))
        found = [f"{value} ({count} pixels)" for value, count in _most(values[unknown], counts[unknown])]
        ignored = f" and to ignore: {_listed(self.ignore)}" if self.ignore else ""
        return FileFault(
            UNKNOWN, f"{where} has ids of no class: {', '.join(found)}; known are {_listed(self.ids)}{ignored}."
        )


@dataclasses.dataclass(frozen=True)
class ColourCode:
    """Masks whose colours say the class, by a table. Several colours may mean the same class."""

    table: tuple[tuple[Colour, int], ...]
    """(colour, class id), the id being `IGNORE` for colours of pixels that do not count."""

    def __post_init__(self) -> None:
        colours = [colour for colour, _ in self.table]
        if not colours or len(set(colours)) < len(colours):
            twice = next((colour for colour in colours if colours.count(colour) > 1), "none")
            raise ValueError(f"a table of colours must have each colour once, and at least one; {twice} is not so")

    def read(self, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
        """RGB."""
        return np.asarray(image.convert("RGB"))

    def labels(self, pixels: Integer[np.ndarray, "h w *c"], where: str) -> UInt8[np.ndarray, "h w"]:
        """As `Code.labels`."""
        if pixels.shape[2:] != (3,):
            raise FileFault("label map without colours", f"{where} has pixels of shape {pixels.shape[2:]}, not RGB.")
        packed = _packed(pixels.astype(np.uint32))
        known, classes = self._tables
        place = np.minimum(np.searchsorted(known, packed), len(known) - 1)
        wrong = known[place] != packed
        if wrong.any():
            values, counts = np.unique(packed[wrong], return_counts=True)
            colours = [f"({v >> 16}, {v >> 8 & 255}, {v & 255}) ({n} pixels)" for v, n in _most(values, counts)]
            raise FileFault(UNKNOWN, f"{where} has colours that the table lacks: {', '.join(colours)}.")
        return classes[place]

    @functools.cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        """The colours as sorted numbers, and their classes."""
        known = _packed(np.array([colour for colour, _ in self.table], np.uint32))
        order = np.argsort(known)
        return known[order], np.array([label for _, label in self.table], np.uint8)[order]


def _packed(colours: np.ndarray) -> np.ndarray:
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]


def _most(values: np.ndarray, counts: np.ndarray) -> list[tuple[int, int]]:
    order = np.argsort(-counts, kind="stable")[:SHOWN]
    return list(zip(values[order].tolist(), counts[order].tolist()))


def _listed(numbers: Sequence[int]) -> str:
    if len(numbers) > 2 and tuple(numbers) == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def check_count(classes: Sequence) -> None:
    """ValueError unless a label map can tell that many classes apart."""
    if not 1 <= len(classes) <= MAX_CLASSES:
        raise ValueError(f"a label map can have 1 to {MAX_CLASSES} classes, not {len(classes)}")


def read_label_map(
    file: str | os.PathLike | io.BytesIO, code: Code, *, where: str, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w"]:
    """The label map in a mask file.

    Args:
        file: path or open file, of a format that loses nothing.
        where: what errors call it.
        size: (height, width) of its image, in pixels.

    Raises:
        DataError: it is missing, damaged, a JPEG (whose ids are not those that were saved), of another size than its
            image, or has pixels that the code has no class for.
    """
    with open_image(file, where=where) as image:
        check_size((image.height, image.width), size, where)
        if image.format == "JPEG":
            raise FileFault("label map in a lossy format", f"{where} is a JPEG, which blurs ids; save masks as PNG.")
        try:
            pixels = code.read(image)
        except DECODING_ERRORS as error:
            raise undecodable(where, error) from error
    return code.labels(pixels, where)


def check_size(found: tuple[int, int], wanted: tuple[int, int] | None, where: str) -> None:
    """`DataError` where a mask's (height, width) is not its image's."""
    if wanted is not None and tuple(found) != tuple(wanted):
        raise FileFault(
            "label map of another size",
            f"{where} is {found[1]}x{found[0]} pixels, its image {wanted[1]}x{wanted[0]}; make them equal.",
        )


def read_colours(path: str | os.PathLike) -> tuple[tuple[Colour, str], ...]:
    """The (colour, name) of each line "R G B name" of a text file, as CamVid's label_colors.txt has them.

    Empty lines are skipped, and a name may have spaces. `DataError`, with its number, where a line is malformed.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the table of colours {os.fspath(path)!r} cannot be read: {error}.") from error
    found = []
    for number, line in enumerate(lines, 1):
        words = line.split(None, 3)
        if not words:
            continue
        if len(words) < 4 or not all(word.isdecimal() and int(word) <= 255 for word in words[:3]):
            raise DataError(f"{os.fspath(path)!r}, line {number}: {line!r} is not 'R G B name' with 0 to 255 each.")
        found.append((tuple(map(int, words[:3])), words[3].strip()))
    return tuple(found)


def colour_code(colours: Sequence[tuple[Colour, str]], classes: Sequence[str]) -> ColourCode:
    """The code of a table of (colour, name): colours whose name is no class are of pixels that do not count.

    Raises:
        DataError: a class has no colour.
    """
    check_count(classes)
    names = {name for _, name in colours}
    if missing := [name for name in classes if name not in names]:
        raise DataError(
            f"the table of colours has none for the class {missing[0]!r}; it has {', '.join(sorted(names))}."
        )
    ids = {name: i for i, name in enumerate(classes)}
    return ColourCode(tuple((colour, ids.get(name, IGNORE)) for colour, name in colours))
