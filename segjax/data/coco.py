"""COCO JSON: object instances and keypoints."""

import contextlib
import gc
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from segjax.data.coco_objects import numbers, read_attributes, read_joints, read_keypoints
from segjax.data.images import FileFault, Folder, decode, read_size, usable_side
from segjax.data.sanitize import clean_boxes
from segjax.data.segmentations import Segmentations, segmentation_area
from segjax.data.source import Annotations, DataError, ImageInfo, Problems

log = logging.getLogger(__name__)

LARGE_FILE = 50e6
"""Bytes. Reading more than this takes seconds, and is announced."""


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Holds off garbage collection, which walks the millions of objects of a large file again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class CocoSource:
    """A COCO data set: one JSON file of annotations and a folder of images. Implements `segjax.data.source.Source`.

    Images without annotations are kept. Everything that is wrong in the data is in `problems`: what cannot be used is
    skipped, boxes that leave their image are clipped, a malformed segmentation is dropped while its box is kept.

    Attributes:
        category_ids: the file's category id of each class, None for a class of `classes` that the file does not have.
    """

    def __init__(
        self,
        annotations: str | os.PathLike,
        images: str | os.PathLike,
        *,
        name: str | None = None,
        classes: tuple[str, ...] | None = None,
        keypoints: bool = False,
        segmentations: bool = True,
        attributes: tuple[str, ...] = (),
    ) -> None:
        """Reads the annotations; images are decoded when they are asked for.

        Args:
            annotations: the JSON file, `instances_*.json` or `person_keypoints_*.json`.
            images: the folder that `file_name` is relative to.
            name: of the data set; the JSON file's name by default.
            classes: the class map to use, for instance that of a checkpoint: categories are matched to it by name, and
                objects of others are skipped. By default the file's categories in the order of their ids.
            keypoints: read keypoints too; the file's categories must then name their joints.
            segmentations: keep the segmentations. Without them COCO train2017 takes 0.4 GB less memory.
            attributes: what to read of the `attributes` of each object, which is no part of COCO's format but found in
                many exports: names of numbers or of lists of numbers.

        Raises:
            DataError: the file is not COCO JSON (it names the file and the field), nothing in it can be used, or no
                object has one of `attributes`.
        """
        started = time.monotonic()
        self._file = os.fspath(annotations)
        self._folder = Folder(images)
        self.name = name or Path(annotations).stem
        self.problems = Problems()
        data = self._read_json()
        categories = self._read_categories(self._section(data, "categories"))
        self.classes = tuple(categories[i] for i in sorted(categories)) if classes is None else tuple(classes)
        id_of = {category: i for i, category in categories.items()}
        self.category_ids = tuple(id_of.get(c) for c in self.classes)
        self.keypoints = read_joints(data["categories"], file=self._file) if keypoints else None
        self._attribute_names = tuple(attributes)
        self._read_images(self._section(data, "images"))
        self._read_objects(self._section(data, "annotations"), categories, segmentations=segmentations)
        if time.monotonic() - started > 5:
            log.info("%s: %d images in %.0f s", self.name, len(self), time.monotonic() - started)

    def __len__(self) -> int:
        return len(self._image_ids)

    def info(self, index: int) -> ImageInfo:
        """Id, path and stated size of image `index`."""
        height, width = self._sizes[index].tolist()
        return ImageInfo(
            self._image_ids.item(index), os.path.join(self._folder.root, self._files[index]), height, width
        )

    def annotations(self, index: int) -> Annotations:
        """The usable objects of image `index`, in the order of the file."""
        rows = slice(self._starts[index], self._starts[index + 1])
        objects = range(rows.start, rows.stop)
        return Annotations(
            boxes=self._boxes[rows].copy(),
            labels=self._labels[rows].copy(),
            areas=self._areas[rows].copy(),
            crowd=self._crowd[rows].copy(),
            difficult=np.zeros(len(objects), bool),
            ids=tuple(self._ids[rows].tolist()),
            segmentations=tuple(self._segmentations[i] if self._segmentations else None for i in objects),
            keypoints=None if self._points is None else self._points[rows].copy(),
            attributes={name: values[rows].copy() for name, values in self._attributes.items()},
        )

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Image `index` as RGB; EXIF orientation is not applied, as in COCO. `DataError` as `images.decode` says."""
        image_id, path, height, width = self.info(index)
        return decode(path, image_id=image_id, size=(height, width))

    # Reading the file.

    @_without_collection()
    def _read_json(self) -> dict:
        try:
            size = os.path.getsize(self._file)
            if size > LARGE_FILE:
                log.info("reading %s (%.0f MB)", self._file, size / 1e6)
            with open(self._file, "rb") as file:
                data = json.load(file)
        except OSError as error:
            raise DataError(f"The annotation file {self._file!r} cannot be read: {error.strerror}.") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"The annotation file {self._file!r} is not valid JSON: {error}.") from error
        if not isinstance(data, dict):
            raise DataError(f"The annotation file {self._file!r} holds a {type(data).__name__}, not a COCO object.")
        return data

    def _section(self, data: dict, name: str) -> list[dict]:
        section = self._field(data, name, "the file")
        if not isinstance(section, list) or not all(isinstance(record, dict) for record in section):
            raise DataError(f"{self._file!r}: {name!r} is not a list of objects, as COCO JSON has it.")
        return section

    def _field(self, record: dict, name: str, where: str) -> Any:
        if name not in record:
            raise DataError(f"{self._file!r}: {where} has no {name!r}, which COCO JSON demands.")
        return record[name]

    def _id(self, record: dict, name: str, where: str) -> int | str:
        value = self._field(record, name, where)
        if type(value) not in (int, str):
            raise DataError(f"{self._file!r}: {where} has {name!r} {value!r}, which is not an id.")
        return value

    def _read_categories(self, records: list[dict]) -> dict[int, str]:
        """Names by category id."""
        names: dict[int, str] = {}
        for i, record in enumerate(records):
            where = f"categories[{i}]"
            category_id, name = self._id(record, "id", where), self._field(record, "name", where)
            if not isinstance(category_id, int) or not isinstance(name, str):
                raise DataError(
                    f"{self._file!r}: {where} has id {category_id!r} and name {name!r}; give a whole number and a text."
                )
            if category_id in names or name in names.values():
                raise DataError(f"{self._file!r}: {where} repeats id {category_id} or name {name!r}; make both unique.")
            names[category_id] = name
        return names

    # Images.

    def _read_images(self, records: list[dict]) -> None:
        image_ids: list[int | str] = []
        self._files: list[str] = []
        self._skipped: set[int | str] = set()
        sizes = []
        seen: set[int | str] = set()
        for i, record in enumerate(records):
            where = f"images[{i}]"
            image_id, file_name = self._id(record, "id", where), self._field(record, "file_name", where)
            if image_id in seen:
                detail = f"image {image_id}, file {file_name!r}, has the id of an earlier image"
                self.problems.add("duplicate image id", image_id, detail, action="image skipped")
                continue
            seen.add(image_id)
            try:
                path = self._folder.find(file_name)
                size = self._size(record, image_id, path)
            except FileFault as fault:
                self.problems.add(fault.kind, image_id, f"image {image_id}: {fault}", action="image skipped")
                self._skipped.add(image_id)
                continue
            image_ids.append(image_id)
            self._files.append(path[len(self._folder.root) :].lstrip(os.sep))
            sizes.append(size)
        self._image_ids = _compact(image_ids)
        self._sizes = np.asarray(sizes, np.int32).reshape(-1, 2)
        if not sizes:
            raise DataError(self._nothing(f"none of its {len(records)} images can be used"))

    def _size(self, record: dict, image_id: int | str, path: str) -> tuple[int, int]:
        """(height, width) as stated, or of the file where that cannot be."""
        height, width = record.get("height"), record.get("width")
        if usable_side(height) and usable_side(width):
            return int(height), int(width)
        actual = read_size(path)
        detail = f"image {image_id}, file {record['file_name']!r}, states height {height!r} and width {width!r}"
        self.problems.add("image without a usable size", image_id, detail, action="size read from the file")
        return actual

    def _nothing(self, why: str) -> str:
        faults = self.problems.summary(examples=1).replace("\n", "; ")
        faults = f" ({faults})" if faults else ""
        return f"Nothing in {self._file!r} with images in {self._folder.root!r} can be used: {why}{faults}."

    # Objects.

    @_without_collection()
    def _read_objects(self, records: list[dict], categories: dict[int, str], *, segmentations: bool) -> None:
        rows = list(self._rows(records, categories))
        image = np.asarray([row[0] for row in rows], np.int64)
        labels = np.asarray([row[1] for row in rows], np.int32)
        kept = [row[2] for row in rows]
        corners = np.asarray([_stated_box(record["bbox"]) for record in kept], np.float64).reshape(-1, 4)
        with np.errstate(invalid="ignore", over="ignore"):
            corners[:, 2:] += corners[:, :2]
        boxes, usable = clean_boxes(
            corners,
            self._sizes[image],
            image_ids=self._image_ids[image].tolist(),
            annotation_ids=[record["id"] for record in kept],
            problems=self.problems,
            stated=lambda i: f"(x, y, width, height) {kept[i]['bbox']}",
        )
        order = np.flatnonzero(usable)
        order = order[np.argsort(image[order], kind="stable")]
        if not len(order):
            raise DataError(self._nothing(f"none of its {len(records)} annotations can be used"))
        self._boxes, self._labels = boxes[order], labels[order]
        self._starts = np.searchsorted(image[order], np.arange(len(self) + 1)).tolist()
        kept, owner = [kept[i] for i in order.tolist()], image[order]
        self._ids = _compact([record["id"] for record in kept])
        self._crowd = np.asarray([bool(record.get("iscrowd", 0)) for record in kept], bool)
        self._segmentations = self._read_segmentations(kept, owner) if segmentations else None
        self._areas = self._read_areas(kept, owner)
        joints, problems = self.keypoints, self.problems
        self._points = None if joints is None else read_keypoints(kept, len(joints.names), problems=problems)
        self._attributes = read_attributes(kept, self._attribute_names, problems=problems, file=self._file)

    def _rows(self, records: list[dict], categories: dict[int, str]) -> Iterator[tuple[int, int, dict]]:
        """(image index, label, record) of the objects whose image and class are known."""
        position = {image_id: i for i, image_id in enumerate(self._image_ids.tolist())}
        label_of = {name: i for i, name in enumerate(self.classes)}
        label = {category: label_of.get(name) for category, name in categories.items()}
        left_out: dict[int, list[dict]] = {}
        seen: set[int | str] = set()
        for i, record in enumerate(records):
            where = f"annotations[{i}]"
            annotation_id, image_id = self._id(record, "id", where), self._id(record, "image_id", where)
            category_id = self._id(record, "category_id", f"{where} (id {annotation_id})")
            self._field(record, "bbox", f"{where} (id {annotation_id})")
            index = position.get(image_id)
            if annotation_id in seen:
                self._skip("duplicate annotation id", record, "repeats the id of an earlier annotation")
            elif index is None and image_id not in self._skipped:
                self._skip("unknown image", record, "belongs to an image that the file does not list")
            elif category_id not in label:
                self._skip("unknown category", record, f"has category {category_id!r}, which the file does not list")
            elif label[category_id] is None:
                left_out.setdefault(category_id, []).append(record)
            elif index is not None:
                yield index, label[category_id], record
            seen.add(annotation_id)
        self._report_left_out(left_out, categories)

    def _skip(self, kind: str, record: dict, what: str) -> None:
        detail = f"image {record['image_id']}, annotation {record['id']} {what}"
        self.problems.add(kind, record["image_id"], detail, action="skipped", annotation_id=record["id"])

    def _report_left_out(self, left_out: dict[int, list[dict]], categories: dict[int, str]) -> None:
        """One problem a category, not one an object: a class map of one class leaves out most of COCO."""
        for category_id, records in left_out.items():
            category = f"{categories[category_id]!r} (id {category_id})"
            what = f"is the first of {len(records)} of category {category}, which is not among the classes"
            self._skip("category not in the class map", records[0], what)

    def _read_segmentations(self, records: list[dict], owner: np.ndarray) -> Segmentations:
        store = Segmentations()
        sizes = self._sizes[owner]
        faults = []
        for i, (record, (height, width)) in enumerate(zip(records, sizes.tolist())):
            if fault := store.append(record.get("segmentation"), height, width):
                faults.append((i, fault))
        for i, fault in faults + store.drop_far_polygons(*sizes.T):
            record = records[i]
            self.problems.add(
                "malformed segmentation",
                record["image_id"],
                f"image {record['image_id']}, annotation {record['id']}: {fault}",
                action="segmentation dropped, box kept",
                annotation_id=record["id"],
            )
        return store

    def _read_areas(self, records: list[dict], owner: np.ndarray) -> Float[np.ndarray, "n"]:
        """As stated, else of the segmentation, else of the box."""
        sides = (self._boxes[:, 2:] - self._boxes[:, :2]).astype(np.float64)
        areas = sides.prod(axis=1)
        for i, record in enumerate(records):
            stated = record.get("area")
            if type(stated) in (int, float) and 0 <= stated < 1e300:
                areas[i] = stated
            elif self._segmentations is not None and (segmentation := self._segmentations[i]) is not None:
                areas[i] = segmentation_area(segmentation, *self._sizes[owner[i]].tolist())
        return areas


def _compact(ids: list[int | str]) -> np.ndarray:
    """Ids as one array. A list of them would keep alive every block of memory that the JSON was parsed into."""
    whole = all(type(i) is int and abs(i) < 2**63 for i in ids)
    return np.array(ids, np.int64 if whole else object)


def _stated_box(box: Any) -> Any:
    values = numbers(box, 4)
    return (np.nan,) * 4 if values is None else values
