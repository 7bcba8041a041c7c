"""A file of proposals: boxes made beforehand for each image of a data set, by selective search for instance.

The file is one NumPy archive (`numpy.savez`, no pickled objects) that holds

    image_ids   [n]    whole numbers or strings: the ids of the images as the data set has them, each once, in any order
    offsets     [n+1]  int64, from 0 to m, never falling: the boxes of image i are rows offsets[i] to offsets[i + 1]
    boxes       [m 4]  float32, `xyxy` in pixels of the image file, best first within each image
    scores      [m]    float32, of any scale; may be absent
    made_by     []     a string that says what made them, in the maker's own form; may be absent

An image may have no box, but has to be listed. Images that the data set lacks are no fault: one file can serve all its
parts.
"""

import functools
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64

from segjax.data.source import DataError, ImageId, Source

CLIPPED = "proposal partly outside its image"
EMPTY = "proposal without area inside its image"


def write_proposals(
    path: str | os.PathLike,
    image_ids: Sequence[ImageId],
    boxes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray] | None = None,
    *,
    made_by: str = "",
) -> None:
    """Writes a file of proposals, whole or not at all.

    Args:
        path: of the file; a file that is there is replaced.
        image_ids: all whole numbers or all strings, each once.
        boxes: [m_i 4] for each image, `xyxy` in pixels of the image file, best first.
        scores: [m_i] for each image, or None.
        made_by: what made them.

    Raises:
        ValueError: the arguments do not match each other in number, or an id is given twice.
    """
    if len(set(image_ids)) != len(image_ids) or len({type(i) for i in image_ids}) > 1:
        raise ValueError("write_proposals: image_ids must be all whole numbers or all strings, each once")
    rows = [np.asarray(one, np.float32).reshape(-1, 4) for one in boxes]
    counts = [len(one) for one in rows]
    if len(rows) != len(image_ids) or (scores is not None and [len(one) for one in scores] != counts):
        raise ValueError(
            f"write_proposals: {len(image_ids)} image_ids need as many arrays of boxes, not {len(rows)}, and scores, "
            "where given, one for each box"
        )
    arrays = {
        "image_ids": np.asarray(image_ids),
        "offsets": np.cumsum([0, *counts], dtype=np.int64),
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *rows]),
    }
    if scores is not None:
        arrays["scores"] = np.concatenate([np.zeros(0, np.float32), *(np.asarray(s, np.float32) for s in scores)])
    if made_by:
        arrays["made_by"] = np.asarray(made_by)
    _write(pathlib.Path(path), arrays)


class StoredProposals(NamedTuple):
    """What a file of proposals holds, unchanged."""

    image_ids: list[ImageId]
    offsets: Int64[np.ndarray, " ends"]
    """The boxes of image i are rows offsets[i] to offsets[i + 1]."""
    boxes: Float32[np.ndarray, "m 4"]
    scores: Float32[np.ndarray, " m"] | None
    made_by: str
    """What made them, "" where the file does not say."""


def read_proposals(path: str | os.PathLike) -> StoredProposals:
    """Reads a whole file.

    Raises:
        DataError: it cannot be read or is not of the form above, or a box or a score is not finite.
    """
    path = os.fspath(path)
    arrays = _read_arrays(path)
    absent = [name for name in ("image_ids", "offsets", "boxes") if name not in arrays]
    if absent:
        raise _fault(path, f"it has no array {absent[0]!r}")
    ids, offsets, boxes, scores = (arrays.get(name) for name in ("image_ids", "offsets", "boxes", "scores"))
    made_by = arrays.get("made_by", np.asarray(""))
    check = functools.partial(_check, path)
    check("image_ids", ids, ids.ndim == 1 and ids.dtype.kind in "iuU", "a list of whole numbers or strings")
    check("image_ids", ids, len(np.unique(ids)) == len(ids), "without an id that is listed twice")
    check("boxes", boxes, boxes.shape[1:] == (4,) and boxes.dtype == np.float32, "float32 [m 4]")
    fits = offsets.shape == (len(ids) + 1,) and offsets.dtype.kind in "iu"
    fits = fits and offsets[0] == 0 and offsets[-1] == len(boxes) and (offsets[1:] >= offsets[:-1]).all()
    check("offsets", offsets, fits, f"{len(ids) + 1} whole numbers that rise from 0 to the {len(boxes)} boxes")
    fits = scores is None or (scores.shape == boxes.shape[:1] and scores.dtype == np.float32)
    check("scores", scores, fits, f"one float32 for each of the {len(boxes)} boxes")
    check("made_by", made_by, made_by.shape == () and made_by.dtype.kind == "U", "one string")
    _check_finite(path, ids, offsets, boxes, scores)
    return StoredProposals(ids.tolist(), offsets.astype(np.int64), boxes, scores, str(made_by))


def _write(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)
        os.chmod(partial, 0o644)  # mkstemp's files are for their owner alone
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


class ProposalFile:
    """The proposals of the images of a source. Picklable; holds what the file holds of the source's images.

    Attributes:
        faults: how many boxes reached beyond their image and were clipped, and how many had no area there and were
            dropped, by kind.
    """

    def __init__(self, path: str | os.PathLike, source: Source) -> None:
        """Reads the whole file.

        Raises:
            DataError: the file cannot be read or is not of the form above, a box is not finite, or the file does not
                list all images of `source`.
        """
        self._path = os.fspath(path)
        ids, offsets, boxes, scores, _ = read_proposals(path)
        position = {image_id: i for i, image_id in enumerate(ids)}
        infos = [source.info(index) for index in range(len(source))]
        rows = self._rows([info.image_id for info in infos], position, source.name)
        counts = np.diff(offsets)[rows]
        starts = np.cumsum([0, *counts])
        order = np.repeat(offsets[:-1][rows] - starts[:-1], counts) + np.arange(starts[-1])
        limits = np.array([(info.width, info.height) * 2 for info in infos], np.float32).reshape(-1, 4)
        owner = np.repeat(np.arange(len(infos)), counts)
        clipped = np.clip(boxes[order], 0, limits[owner])
        usable = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        outside = (clipped != boxes[order]).any(axis=1)
        self.faults = {CLIPPED: int((outside & usable).sum()), EMPTY: int((~usable).sum())}
        self._boxes = clipped[usable]
        self._scores = None if scores is None else scores[order][usable]
        self._starts = np.searchsorted(owner[usable], np.arange(len(infos) + 1))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._starts) - 1

    def faults_text(self) -> str:
        """The faults as one sentence that names the file; "" where there is none."""
        clipped, empty = self.faults[CLIPPED], self.faults[EMPTY]
        if not clipped and not empty:
            return ""
        return (
            f"{self._path}: of {len(self._boxes) + empty} boxes {clipped} reach beyond their image and were clipped, "
            f"{empty} have no area inside it and were dropped; if they are many, the file is of images of other sizes: "
            "make it anew"
        )

    @property
    def largest(self) -> int:
        """The number of proposals of the image that has most."""
        return int(np.diff(self._starts).max(initial=0))

    def __call__(self, index: int) -> tuple[Float[np.ndarray, "p 4"], Float[np.ndarray, "p"]]:
        """Boxes and scores for image `index` of the source, best first; the scores are 0 where the file has none."""
        rows = slice(self._starts[index], self._starts[index + 1])
        boxes = self._boxes[rows].copy()
        return boxes, np.zeros(len(boxes), np.float32) if self._scores is None else self._scores[rows].copy()

    def _rows(self, wanted: list[ImageId], position: dict[Any, int], name: str) -> np.ndarray:
        missing = [image_id for image_id in wanted if image_id not in position]
        if missing:
            shown = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
            raise _fault(
                self._path,
                f"it lacks {len(missing)} of the {len(wanted)} images of {name!r} ({shown}); make proposals for them, "
                "with no box where there is none",
            )
        return np.array([position[image_id] for image_id in wanted], np.int64)


def _read_arrays(path: str) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except OSError as error:
        raise _fault(path, f"it cannot be read: {error.strerror or error}") from error
    except (ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise _fault(path, "it is not a NumPy archive of plain arrays (numpy.savez)") from error


def _check(path: str, name: str, array: np.ndarray | None, fits: bool | np.bool, wanted: str) -> None:
    if not fits:
        raise _fault(path, f"its {name!r}, {array.dtype} of shape {list(array.shape)}, must be {wanted}")


def _check_finite(
    path: str, ids: np.ndarray, offsets: np.ndarray, boxes: np.ndarray, scores: np.ndarray | None
) -> None:
    bad = ~np.isfinite(boxes).all(axis=1)
    if scores is not None:
        bad |= ~np.isfinite(scores)
    if bad.any():
        row = int(np.argmax(bad))
        owner = ids[np.searchsorted(offsets, row, side="right") - 1]
        raise _fault(path, f"{bad.sum()} of its boxes or scores are not finite, the first of image {owner.item()!r}")


def _fault(path: str, what: str) -> DataError:
    return DataError(f"The file of proposals {path!r} cannot be used: {what}.")


def open_proposals(path: str | os.PathLike, source: Source) -> ProposalFile:
    """The proposals of a source's images; errors as `ProposalFile`. Faults of the file go to `source.problems`."""
    found = ProposalFile(path, source)
    if text := found.faults_text():
        source.problems.add("proposals outside their images", os.fspath(path), text, action="clipped or dropped")
    return found
