"""Image files: which of them a data set may name, and their decoding to RGB."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segjax.data.source import DataError, ImageId

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
"""What is decoded. Pillow knows more, among them formats that run other programs (EPS)."""
MAX_PIXELS = 89_478_485
"""Larger images are refused before they are decoded: a small file can claim to be huge. Pillow warns from here on."""

MAX_SIDE = 2**20
"""Pixels. A stated height or width beyond it is taken for a mistake."""


class FileFault(DataError):
    """An image file that cannot be used. `kind` says why, as `Problem.kind` does."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self):
        return FileFault, (self.kind, str(self))


class Folder:
    """The files below one folder. Each directory is listed once, so that asking for 100 000 files stays cheap.

    Args:
        root: the folder.
        holds: what its files are, for messages: "image", "annotation".
    """

    def __init__(self, root: str | os.PathLike, *, holds: str = "image") -> None:
        if not Path(root).is_dir():
            raise DataError(f"The {holds} folder {os.fspath(root)!r} does not exist or is not a folder.")
        self._missing = f"missing {holds} file"
        self.root = os.path.realpath(root)
        self._listings: dict[str, tuple[bool, dict[str, bool]]] = {}

    def find(self, file_name: Any) -> str:
        """Absolute path of the file that the data calls `file_name`, relative to the folder.

        Raises `FileFault` where the name leads out of the folder (absolute, through `..` or through a symbolic link)
        or where there is no such file.
        """
        if not isinstance(file_name, str) or not file_name or "\0" in file_name:
            raise FileFault(self._missing, f"file name {file_name!r} is not a name")
        parts = file_name.replace("\\", "/").split("/")
        if os.path.isabs(file_name) or parts[0] == "" or ".." in parts or parts[0].endswith(":"):
            raise _outside(file_name, self.root)
        path = os.path.normpath(os.path.join(self.root, file_name))
        directory, base = os.path.split(path)
        inside, entries = self._listing(directory)
        link = entries.get(base, False)
        if not inside or (link and not self._holds(path)):
            raise _outside(file_name, self.root)
        # A file system may ignore case, so a name that the listing lacks is asked for once more.
        if (link or base not in entries) and not os.path.isfile(path):
            raise FileFault(self._missing, f"file {file_name!r} is not in {self.root}")
        return path

    def _listing(self, directory: str) -> tuple[bool, dict[str, bool]]:
        """Whether a directory truly lies below the root, and its files: True where one is a symbolic link."""
        if directory not in self._listings:
            found: dict[str, bool] = {}
            inside = self._holds(directory)
            if inside and os.path.isdir(directory):
                with os.scandir(directory) as entries:
                    found = {e.name: e.is_symlink() for e in entries if e.is_symlink() or e.is_file()}
            self._listings[directory] = (inside, found)
        return self._listings[directory]

    def _holds(self, path: str) -> bool:
        return os.path.commonpath([os.path.realpath(path), self.root]) == self.root


def _outside(file_name: str, root: str) -> FileFault:
    return FileFault("file outside the data folder", f"file {file_name!r} leads out of {root}")


def usable_side(value: object) -> bool:
    """Whether a height or width that a data set states can be one: a whole number from 1 to `MAX_SIDE`."""
    return type(value) in (int, float) and 1 <= value <= MAX_SIDE and value == int(value)


def read_size(path: str | os.PathLike) -> tuple[int, int]:
    """(height, width) in pixels from an image file's header. `DataError` where it is not an image."""
    with open_image(path, where=f"{os.fspath(path)!r}") as image:
        return image.height, image.width


def decode(
    path: str | os.PathLike, *, image_id: ImageId | None = None, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an image file as RGB bytes.

    Grey, palette, CMYK and 16-bit images are converted; an alpha channel is dropped. The orientation that EXIF data
    may state is NOT applied, because annotations refer to the pixels as stored, in COCO as in VOC.

    Args:
        path: the file, of one of `FORMATS`.
        image_id: named in errors.
        size: (height, width) that the annotations state, in pixels.

    Raises:
        DataError: the file is missing, cut short, not an image, larger than `MAX_PIXELS`, or not of the stated size.
    """
    return decode_file(
        path, where=f"{os.fspath(path)!r}" + ("" if image_id is None else f" (image {image_id})"), size=size
    )


def decode_file(
    file: str | os.PathLike | io.BytesIO, *, where: str, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """As `decode`, of a path or an open file that errors call `where`."""
    with open_image(file, where=where) as image:
        if size is not None and (image.height, image.width) != tuple(size):
            raise FileFault(
                "image size differs from the annotations",
                f"{where} is {image.width}x{image.height} pixels, but its annotations state {size[1]}x{size[0]}; "
                "correct the stated size or restore the original file.",
            )
        try:
            return _to_rgb(image)
        except DECODING_ERRORS as error:
            raise undecodable(where, error) from error


DECODING_ERRORS = (OSError, ValueError, SyntaxError, EOFError, MemoryError)
"""What Pillow raises on files that are damaged."""


def undecodable(where: str, error: BaseException) -> FileFault:
    """The fault of a file that opens as an image, and whose pixels cannot be had."""
    return FileFault("undecodable image", f"{where} cannot be decoded: {_one_line(error)}.")


def open_image(file: str | os.PathLike | io.BytesIO, *, where: str) -> Image.Image:
    """An image file opened but not decoded. `DataError` as `decode`, which calls the file `where`."""
    try:
        image = Image.open(file, formats=FORMATS)
    except FileNotFoundError as error:
        raise FileFault("missing image file", f"{where} does not exist.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(where) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise FileFault(
            "undecodable image", f"{where} is not an image that can be read: {_one_line(error)}."
        ) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _too_large(where)
    return image


def _too_large(where: str) -> FileFault:
    message = f"{where} claims more than {MAX_PIXELS:,} pixels; cut it into tiles or leave it out."
    return FileFault("image too large", message)


def _to_rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode.startswith("I;16"):
        high_byte = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(high_byte[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode!r} has 32 bits a pixel and no agreed range, convert it to 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    # A copy: Pillow's buffer is read-only, and transforms may write in place.
    return np.array(image.convert("RGB"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
