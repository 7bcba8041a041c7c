"""Images with label maps out of tensorflow-datasets, by name, read without TensorFlow.

tensorflow-datasets keeps a prepared data set in one of several file formats, and reads only array_record at random and
without TensorFlow. Preparing happens once, on any machine, and most data sets need the packages tensorflow and
importlib_resources for it, which segjax does not:

    tfds.builder("oxford_iiit_pet", data_dir=..., file_format="array_record").download_and_prepare()
"""

import io
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from segjax.data.files import no_objects
from segjax.data.images import FileFault, decode_file, open_image
from segjax.data.mask_codes import Code, Colour, IdCode, check_count, check_size, read_label_map
from segjax.data.source import Annotations, DataError, ImageInfo, Problems


class TfdsLabelMaps:
    """A split of a data set of tensorflow-datasets. Implements `segjax.data.source.LabelMapSource`; it has no objects.

    Images and masks are decoded here and not by tensorflow-datasets, so that they are what the same files would be in a
    folder. An image's id is its number in the split. Images that are damaged, or whose mask has another size, are left
    out and listed in `problems`.
    """

    keypoints = None

    def __init__(
        self,
        name: str,
        *,
        split: str,
        data_dir: str | os.PathLike | None = None,
        image_key: str = "image",
        label_key: str = "segmentation_mask",
        classes: Sequence[str] | None = None,
        code: Code | None = None,
        colours: Sequence[Colour] | None = None,
    ) -> None:
        """Opens the data set and reads the headers of all images.

        Args:
            name: as tensorflow-datasets has it: "oxford_iiit_pet", "set/config:1.0.0".
            split: "train", "train[:80%]", ...
            data_dir: where it was prepared; tensorflow-datasets' own default where None.
            image_key: of the features, the image.
            label_key: of the features, the mask: an image, or an array of numbers.
            classes: by default those that the feature names.
            code: what the pixels of the masks mean; by default the number i is class i, and 255 does not count.
            colours: RGB of each class, where they are known.

        Raises:
            DataError: there is no such data set, split or feature, the data set is not prepared or in a file format
                that only TensorFlow reads, no names of classes are known, or no image can be used.
        """
        self.name = f"{name}[{split}]"
        self.problems = Problems()
        self._where = (name, None if data_dir is None else os.fspath(data_dir), split)
        self._keys = (image_key, label_key)
        self.__setstate__({})
        features = _builder(*self._where[:2]).info.features
        if missing := [key for key in self._keys if key not in features]:
            raise DataError(f"{name} has no feature {missing[0]!r}; there are: {', '.join(sorted(features))}.")
        classes = classes or getattr(features[label_key], "names", None)
        if not classes:
            raise DataError(f"{name} does not name the classes of {label_key!r}; name them as data.classes.")
        check_count(classes)
        self.classes, self.colours = tuple(classes), None if colours is None else tuple(colours)
        self._code = IdCode(tuple(range(len(self.classes)))) if code is None else code
        self._rows, self._sizes = self._read_sizes()

    def _read_sizes(self) -> tuple[list[int], list[tuple[int, int]]]:
        """The numbers of the usable images, and their sizes."""
        rows, sizes = [], []
        for row in tqdm(range(len(self._reader())), desc=f"reading {self.name}", unit="image", delay=2, leave=False):
            try:
                found = self._found(row)
                image, mask = (_size(found[key], self._called(row, key)) for key in self._keys)
                check_size(mask, image, self._called(row, self._keys[1]))
            except FileFault as fault:
                self.problems.add(fault.kind, row, str(fault), action="image skipped")
                continue
            rows.append(row)
            sizes.append(image)
        if not rows:
            raise DataError(f"{self.name}: no image with its label map can be used: {self.problems.summary(1)}")
        return rows, sizes

    def __len__(self) -> int:
        return len(self._rows)

    def info(self, index: int) -> ImageInfo:
        """Number in the split, a path made up of it, and size of image `index`."""
        row = self._rows[index]
        return ImageInfo(row, f"{self.name}/{row}", *self._sizes[index])

    def annotations(self, index: int) -> Annotations:
        """No objects."""
        del index
        return no_objects()

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Image `index` as RGB. `DataError` as `images.decode` says."""
        row, key = self._rows[index], self._keys[0]
        found = self._found(row)[key]
        if isinstance(found, bytes):
            return decode_file(io.BytesIO(found), where=self._called(row, key), size=self._sizes[index])
        return np.ascontiguousarray(np.broadcast_to(np.atleast_3d(found), (*found.shape[:2], 3)))

    def label_map(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """The classes of image `index`. `DataError` as `mask_codes.read_label_map` says."""
        row, key = self._rows[index], self._keys[1]
        found, where = self._found(row)[key], self._called(row, key)
        if isinstance(found, bytes):
            return read_label_map(io.BytesIO(found), self._code, where=where, size=self._sizes[index])
        return self._code.labels(found, where)

    def _called(self, row: int, key: str) -> str:
        return f"{key!r} of example {row} of {self.name}"

    def _found(self, row: int) -> Mapping[str, Any]:
        return self._reader()[row]

    def _reader(self) -> Sequence[Mapping[str, Any]]:
        """The examples, their images as the bytes of files. Opened once in each process."""
        with self._lock:
            if self._opened is None:
                self._opened = _open(*self._where)
            return self._opened

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name not in ("_opened", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._opened, self._lock = None, threading.Lock()


def _builder(name: str, data_dir: str | None) -> Any:
    """The prepared data set. `DataError` where there is none."""
    import tensorflow_datasets as tfds  # takes a second, and few need it

    call = f'tfds.builder({name!r}, data_dir={data_dir!r}, file_format="array_record").download_and_prepare()'
    prepare = f"where tensorflow and importlib_resources are installed: {call}"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError, FileNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"tensorflow-datasets has no {name!r} in {data_dir or 'its data_dir'!r}: {reason}") from error
    if not builder.is_prepared():
        raise DataError(f"{name} is not prepared in {str(builder.data_path)!r}. Prepare it once, {prepare}")
    formats = {form.value for form in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise DataError(
            f"{name} in {str(builder.data_path)!r} is prepared as {', '.join(sorted(formats))}, which only TensorFlow "
            f"reads. Prepare it once more in another data_dir, {prepare}"
        )
    return builder


def _open(name: str, data_dir: str | None, split: str) -> Sequence[Mapping[str, Any]]:
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir)
    images = [key for key, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
    try:
        return builder.as_data_source(
            split=split, decoders={key: tfds.decode.SkipDecoding() for key in images}, file_format="array_record"
        )
    except (ValueError, KeyError) as error:
        there = ", ".join(builder.info.splits)
        raise DataError(f"{name} has no split {split!r}; there are: {there}.") from error


def _size(found: Any, where: str) -> tuple[int, int]:
    """(height, width) of an image as bytes of a file, or as an array."""
    if isinstance(found, bytes):
        with open_image(io.BytesIO(found), where=where) as image:
            return image.height, image.width
    if not isinstance(found, np.ndarray) or found.ndim not in (2, 3) or found.dtype.kind not in "iu":
        raise DataError(f"{where} is no image: {type(found).__name__} of shape {np.shape(found)}.")
    return found.shape[0], found.shape[1]
