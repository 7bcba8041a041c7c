"""Region proposals by selective search, written to a file that Fast R-CNN reads. Nothing is learnt.

    python -m train.selective_search fast_rcnn_scenes --part train --workers 2
    python -m train.selective_search fast_rcnn_coco --data.root /data/coco --part val --out proposals/val.npz

The recipe, a name or a file, says where the images are; or name images and folders with --images. Uijlings et al. 2013
(`segjax.regions.selective_search`). A run that is stopped continues where it was; a finished file is not made again.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import tyro
from jaxtyping import Float32, UInt8
from tqdm import tqdm

from configs.data import Data, Part
from segjax.data.files import ImageFiles
from segjax.data.proposals import open_proposals, read_proposals, write_proposals
from segjax.data.source import DataError, ImageId, Source
from segjax.evaluation.recall import coverage
from segjax.regions.selective_search import MODES, Strategy, selective_search, strategies
from train.recipes import named_recipe
from train.runtime import one_sentence, say, say_problems
from train.spread import spread

PROGRAM = "python -m train.selective_search"
SAVE_EVERY = 60.0
"""Seconds between copies of what is done so far, or twenty times what writing the last one took."""
NO_BOX = np.zeros((0, 4), np.float32)


@dataclasses.dataclass(frozen=True)
class Search:
    """What is searched for. The same settings give the same boxes, on any number of processes."""

    mode: Literal["single", "fast", "quality"] = "fast"
    """The paper's choices of 1, 8 and 80 strategies."""
    colour_spaces: tuple[str, ...] = ()
    """In place of the mode's: names in `segjax.regions.colour_spaces.COLOUR_SPACES`."""
    similarities: tuple[str, ...] = ()
    """In place of the mode's: combinations of the letters C, T, S and F (colour, texture, size, fill)."""
    k: tuple[int, ...] = ()
    """In place of the mode's: how coarse the first regions are."""
    count: int = 2000
    """The most proposals of an image."""
    min_side: float = 10.0
    """Boxes narrower or lower than this are left out, in pixels of the image file."""
    max_side: int = 500
    """Images of a longer side are searched at this size, in pixels."""
    seed: int = 0
    """Of the random part of the order, together with the image's id."""

    def using(self) -> tuple[Strategy, ...]:
        """The strategies. `ValueError` for a colour space or a similarity that there is not."""
        mode = MODES[self.mode]
        spaces = self.colour_spaces or tuple(dict.fromkeys(s.colour_space for s in mode))
        alike = self.similarities or tuple(dict.fromkeys(s.similarities for s in mode))
        return strategies(spaces, alike, self.k or tuple(dict.fromkeys(s.k for s in mode)))

    def check(self) -> None:
        """`ValueError`, naming the option, where a number is out of its range."""
        for name, low in (("count", 1), ("min_side", 0), ("max_side", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least {low}.")

    def made_by(self) -> str:
        """What the files of this search say of their making (`segjax.data.proposals`)."""
        return json.dumps({"selective_search": dataclasses.asdict(self)})

    @classmethod
    def that_made(cls, made_by: str) -> "Search | None":
        """The search that a file says it was made by; None where it says something else, or settings unknown here."""
        try:
            stored = dict(json.loads(made_by)["selective_search"])
            return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()})
        except (ValueError, KeyError, TypeError):
            return None


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Writes the boxes that selective search finds in every image of a part of a data set."""

    data: Data
    search: tyro.conf.OmitArgPrefixes[Search] = Search()
    part: Part = "train"
    """The part of the data set."""
    images: tuple[pathlib.Path, ...] = ()
    """Images, and folders of them, in place of the data set: ids are then paths, as `train.predict` has them."""
    out: pathlib.Path | None = None
    """The file; selective_search_PART.npz in the data's folder by default."""
    workers: int = 0
    """Processes; 0 starts one for each CPU."""


class Found(NamedTuple):
    """What one image gave."""

    boxes: np.ndarray
    seconds: float
    """Of CPU time."""
    fault: str = ""
    """Why the image cannot be read, if it cannot."""


class Searcher:
    """Index of an image of `source` -> its proposals. Picklable."""

    def __init__(self, source: Source, settings: Search) -> None:
        self._source, self._settings, self._using = source, settings, settings.using()

    def __call__(self, index: int) -> Found:
        try:
            image = self._source.image(index)
        except DataError as error:
            return Found(NO_BOX, 0.0, str(error))
        # CPU time, which other programs on the machine do not change.
        start = time.process_time()
        boxes = self.search(index, image)
        return Found(boxes, time.process_time() - start)

    def search(self, index: int, image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "p 4"]:
        """The proposals of image `index`, which has been read: `xyxy` in its pixels, best first."""
        settings = self._settings
        return selective_search(
            image,
            using=self._using,
            count=settings.count,
            min_side=settings.min_side,
            max_side=settings.max_side,
            # Of the id, not of the index, so that an image has the same proposals in every part and order.
            seed=[settings.seed, zlib.crc32(repr(self._source.info(index).image_id).encode())],
        )


def search_source(source: Source, settings: Search, *, out: pathlib.Path, workers: int) -> int:
    """Writes the proposals of all images of a source and returns their number.

    What `out`, or the file of a stopped run beside it, has already is kept; images without a box are searched again.

    Raises:
        ValueError: `out` was made with other settings or by something else; a setting is out of its range.
        DataError: `out` is no file of proposals.
    """
    settings.check()
    made_by = settings.made_by()
    searcher = Searcher(source, settings)
    ids = [source.info(index).image_id for index in range(len(source))]
    partial = out.with_name(f"{out.name}.partial")
    done = _done(out, made_by) | _done(partial, made_by)
    kept = [i for i in ids if i in done]
    if kept:
        say(f"{len(kept)} of {len(ids)} images were searched before, and are not searched again")
    seconds = []
    if len(kept) < len(ids) or not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        seconds = _run(searcher, ids, done, save=lambda: _save(partial, done, made_by), workers=workers)
        # Boxes of images that the source lacks stay: one file can serve all parts of a data set.
        _save(partial, done | {i: NO_BOX for i in ids if i not in done}, made_by)
        os.replace(partial, out)
    number = sum(len(done[i]) for i in ids if i in done)
    took = f", {np.mean(seconds):.2f} s of CPU time an image" if seconds else ""
    say(f"{number} proposals, {number / max(len(ids), 1):.0f} an image{took}: {out}")
    return number


def _done(path: pathlib.Path, made_by: str) -> dict[ImageId, np.ndarray]:
    """The boxes of each image that has any in a file of these settings; nothing where there is no file."""
    if not path.exists():
        return {}
    stored = read_proposals(path)
    if stored.made_by != made_by:
        how = f"with other settings, {stored.made_by}" if stored.made_by else "by something else"
        raise ValueError(f"{path} was made {how}; name another file with --out, or remove it.")
    boxes = np.split(stored.boxes, stored.offsets[1:-1])
    return {image_id: rows for image_id, rows in zip(stored.image_ids, boxes) if len(rows)}


def _save(path: pathlib.Path, done: dict[ImageId, np.ndarray], made_by: str) -> None:
    write_proposals(path, list(done), list(done.values()), made_by=made_by)


def _run(
    searcher: Searcher,
    ids: Sequence[ImageId],
    done: dict[ImageId, np.ndarray],
    *,
    save: Callable[[], None],
    workers: int,
) -> list[float]:
    """Searches what is not `done`, and returns the seconds of each image. What is done is saved when it is stopped."""
    seconds, faults = [], []
    todo = [index for index, image_id in enumerate(ids) if image_id not in done]
    due = time.perf_counter() + SAVE_EVERY
    try:
        # Closed at once: the traceback of an error in saving would keep it alive, and its processes at work.
        with contextlib.closing(spread(searcher, todo, workers=workers)) as found:
            shown = tqdm(found, total=len(todo), desc="selective search", unit="image", leave=False)
            for index, one in zip(todo, shown):
                if one.fault:
                    faults.append(one.fault)
                    continue
                done[ids[index]] = one.boxes
                seconds.append(one.seconds)
                if time.perf_counter() > due:
                    start = time.perf_counter()
                    save()
                    due = start + max(SAVE_EVERY, 20 * (time.perf_counter() - start))
    except BaseException:
        if seconds:
            save()
        raise
    for fault in faults:
        say(f"no proposals: {fault}")
    return seconds


def recall_text(source: Source, path: pathlib.Path) -> str:
    """What the proposals in a file cover of the labelled objects of a source, in a line."""
    found = coverage(source, open_proposals(path, source))
    if not len(found.labels):
        return "no object is labelled, so that no recall is known"
    recalls = ", ".join(f"{found.recall(iou)[-1]:.3f} at IoU {iou}" for iou in (0.5, 0.7))
    mabo = found.mean_best_overlap()[-1]
    return f"recall of {len(found.labels)} objects: {recalls}; mean average best overlap {mabo:.3f}"


def main(arguments: list[str]) -> None:
    """Searches from a command line."""
    _, recipe, (first, *rest) = named_recipe(arguments, program=PROGRAM)
    args = tyro.cli(Arguments, default=Arguments(recipe.data), args=rest, prog=f"{PROGRAM} {first}")
    with one_sentence():
        if args.images and args.out is None:
            raise ValueError("--images needs --out: name the file for the proposals.")
        source = ImageFiles(args.images, classes=()) if args.images else args.data.source(args.part)
        say_problems(source)
        out = args.out or args.data.root / f"selective_search_{args.part}.npz"
        say(f"selective search in {len(source)} images of {source.name}")
        search_source(source, args.search, out=out, workers=args.workers or os.cpu_count() or 1)
        say(recall_text(source, out))


if __name__ == "__main__":
    main(sys.argv[1:])
