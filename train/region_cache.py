"""The regions of all training images, what each is, and what a network sees in each, kept on disk.

Of every image the objects come first, then its proposals. The features are NumPy arrays that are read by memory map:
`hidden.npy` has a row for each region, `pooled.npy` one for each proposal that ridge regression learns from.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from segjax.data.pipeline import Batches
from segjax.data.proposals import ProposalFile, write_proposals
from segjax.data.source import Annotations, Source
from segjax.evaluation.box_ious import box_ious
from segjax.types import Batch, Detections
from train.runtime import write_text

SAVE_EVERY = 10
"""Batches after which what was computed is on disk, whatever happens."""


class Regions(NamedTuple):
    """The m regions of all images, one image's after another's."""

    starts: Int[np.ndarray, "_"]
    """The regions of image i are rows starts[i] to starts[i + 1]."""
    boxes: Float[np.ndarray, "m 4"]
    label: Int[np.ndarray, "m"]
    """Class of the object that each overlaps most, -1 where the image has none."""
    target: Float[np.ndarray, "m 4"]
    """Box of that object."""
    overlap: Float[np.ndarray, "m"]
    """IoU with it."""
    is_object: Bool[np.ndarray, "m"]
    """The region is an object's own box."""
    classes: Float[np.ndarray, "m k"]
    """Largest IoU with any object of each class, also one that is not trained on."""

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.starts) - 1

    def digest(self) -> str:
        """Of all that is known of the regions."""
        found = hashlib.sha256()
        for column in self:
            found.update(f"{column.dtype} {column.shape}".encode())
            found.update(np.ascontiguousarray(column))
        return found.hexdigest()


def make_regions(source: Source, proposals: ProposalFile, count: int) -> Regions:
    """Objects and the first `count` proposals of every image."""
    found = [
        _of_image(source.annotations(i), proposals(i)[0][:count], len(source.classes))
        for i in tqdm(range(len(source)), desc="regions", unit="image", leave=False)
    ]
    starts = np.cumsum([0, *(len(boxes) for boxes, *_ in found)])
    return Regions(starts, *map(np.concatenate, zip(*found)))


def _of_image(truth: Annotations, proposed: Float[np.ndarray, "p 4"], classes: int) -> tuple[np.ndarray, ...]:
    """The fields of `Regions`, but for `starts`, of one image."""
    usable = truth.counted
    objects, labels = truth.boxes[usable], truth.labels[usable]
    boxes = np.concatenate([objects, proposed]).astype(np.float32)
    overlap, by_class = box_ious(boxes, truth.boxes).astype(np.float32), np.zeros((len(boxes), classes), np.float32)
    for column, label in zip(overlap.T, truth.labels):
        by_class[:, label] = np.maximum(by_class[:, label], column)
    label, target, best = _best(overlap[:, usable], objects, labels)
    # Of two objects with the same box each is its own.
    label[: len(objects)], target[: len(objects)] = labels, objects
    return boxes, label, target, best, np.arange(len(boxes)) < len(objects), by_class


def store_regions(regions: Regions, source: Source, file: pathlib.Path) -> ProposalFile:
    """The regions as proposals of the source, written to `file` unless it is there.

    Raises:
      ValueError: some are no boxes.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        ids = [source.info(i).image_id for i in range(len(source))]
        write_proposals(file, ids, np.split(regions.boxes, regions.starts[1:-1]))
    stored = ProposalFile(file, source)
    if [len(stored(i)[0]) for i in range(len(source))] != np.diff(regions.starts).tolist():
        raise ValueError(f"{source.name}: some objects or proposals have no area; python -m train.inspect names them.")
    return stored


def _best(overlap: np.ndarray, objects: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(label, box, IoU) of the object that each region overlaps most."""
    if not len(objects):
        rows = len(overlap)
        return np.full(rows, -1), np.zeros((rows, 4), np.float32), np.zeros(rows, np.float32)
    best = overlap.argmax(axis=1)
    return labels[best], objects[best], overlap.max(axis=1)


class Features(NamedTuple):
    """What a network sees in regions."""

    hidden: Float[np.ndarray, "m f"]
    pooled: Float[np.ndarray, "r f2"]
    """Of the regions that `rows` names."""
    rows: Int[np.ndarray, "r"]
    seen: Bool[np.ndarray, "images"]
    """False for an image that could not be read, whose rows are zero and mean nothing."""


NAMES = ("hidden", "pooled", "seen")


def read_features(folder: pathlib.Path, rows: Int[np.ndarray, "r"]) -> Features:
    """The features in a finished folder, by memory map."""
    hidden, pooled, seen = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in NAMES)
    return Features(hidden, pooled, rows, seen)


def write_features(
    folder: pathlib.Path,
    regions: Regions,
    rows: Int[np.ndarray, "r"],
    batches: Batches,
    predict: Callable[[Batch], Detections],
    *,
    dtype: str,
    stopped: Callable[[], bool],
) -> bool:
    """Writes the features of all regions to `folder`, which appears when all are there. False where it was stopped.

    Args:
      rows: regions whose pooled features are kept.
      batches: all images once, with all regions as proposals.
      predict: to one detection for each region, in order, with `extra` "hidden" and "pooled".
      dtype: of the files.
      stopped: asked after each batch; what was done is kept, and continued by the next call.
    """
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    progress = partial / "progress.json"
    if progress.exists():
        batches.set_state(json.loads(progress.read_text()))
    files: dict[str, np.ndarray] = {}
    if progress.exists():
        files = {name: np.load(partial / f"{name}.npy", mmap_mode="r+") for name in NAMES}
    place = np.full(regions.starts[-1], -1)
    place[rows] = np.arange(len(rows))

    def save() -> None:
        for array in files.values():
            array.flush()
        write_text(progress, json.dumps(batches.get_state()) + "\n")

    bar = tqdm(total=batches.steps_per_epoch, initial=batches.step, desc="features", unit="batch", leave=False)
    with bar:
        for batch in batches:
            found = jax.device_get(predict(batch).extra)
            if not files:
                files = _open(
                    partial, {"hidden": regions.starts[-1], "pooled": len(rows)}, found, dtype, regions.images
                )
            for i, sample in enumerate(batch.samples.tolist()):
                if sample >= 0:
                    _keep(files, sample, {name: value[i] for name, value in found.items()}, regions, place)
            bar.update()
            if stopped():
                save()
                batches.close()
                return False
            if batches.step % SAVE_EVERY == 0:
                save()
    save()
    del files
    partial.replace(folder)
    return True


def _open(
    folder: pathlib.Path, counts: dict[str, Any], found: dict[str, np.ndarray], dtype: str, images: int
) -> dict[str, np.ndarray]:
    made = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(int(count), found[name].shape[-1])
        )
        for name, count in counts.items()
    }
    return made | {"seen": np.lib.format.open_memmap(folder / "seen.npy", mode="w+", dtype=bool, shape=(images,))}


def _keep(files: dict, sample: int, found: dict[str, np.ndarray], regions: Regions, place: np.ndarray) -> None:
    """Puts the features of one image where they belong."""
    start, end = regions.starts[sample : sample + 2]
    files["hidden"][start:end] = found["hidden"][: end - start]
    wanted = np.flatnonzero(place[start:end] >= 0)
    files["pooled"][place[start + wanted]] = found["pooled"][wanted]
    files["seen"][sample] = True


def mebibytes(*paths: pathlib.Path) -> float:
    """What files, and the files in folders, take on disk."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file()) / 2**20
