"""What a data set of label maps holds and what training will make of it: as numbers, text and a picture."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from segjax.data.buckets import Bucket, assign, check_buckets, padding_share
from segjax.data.inspection_text import aligned, bucket_plan, class_table, faults, progress_bar, size_counts
from segjax.data.source import DataError, LabelMapSource, Problems
from segjax.types import IGNORE
from segjax.visualize import contact_sheet, draw_segmentation, enlarge, with_legend
from segjax.visualize_maps import has_background, map_colours


@dataclasses.dataclass(frozen=True)
class LabelInspection:
    """The counts of a data set with label maps. `i` images, `c` classes. `text` writes them out."""

    name: str
    classes: tuple[str, ...]
    pixels: Int[np.ndarray, "i c"]
    """Pixels of each class in each image, of the files' size; 0 in images that cannot be used."""
    ignored: Int[np.ndarray, "i"]
    """Pixels of each image that do not count."""
    usable: Bool[np.ndarray, "i"]
    """Which images have a label map that can be read, and decode themselves."""
    sizes: Int[np.ndarray, "i 2"]
    """(height, width) of each image in pixels."""
    buckets: tuple[Bucket, ...]
    assigned: Int[np.ndarray, "i"]
    """The bucket of each image."""
    padding: Float[np.ndarray, "i"]
    """The share of each image's bucket, in 0..1, that is padding."""
    problems: Problems

    def shares(self) -> Float[np.ndarray, "c"]:
        """The share of each class, in 0..1, of the pixels that count."""
        return self.pixels.sum(axis=0) / max(int(self.pixels.sum()), 1)

    def ignored_share(self) -> float:
        """The share of all pixels, in 0..1, that do not count."""
        total = int(self.pixels.sum() + self.ignored.sum())
        return float(self.ignored.sum() / total) if total else 0.0

    def images(self) -> Int[np.ndarray, "c"]:
        """Number of images in which each class occurs."""
        return (self.pixels > 0).sum(axis=0)

    def class_weights(self) -> Float[np.ndarray, "c"]:
        """Weights of the cross-entropy that balance the classes by median frequency.

        The weight of a class is the median of all classes' frequencies over its own, the frequency being its share of
        the pixels of those images in which it occurs (Eigen and Fergus 2015). Pixels that do not count
        are left out of all of it. 0 for a class that does not occur, which is no part of the median either.
        """
        occurs = self.images() > 0
        around = np.where(self.pixels > 0, self.pixels.sum(axis=1, keepdims=True), 0).sum(axis=0)
        frequency = self.pixels.sum(axis=0)[occurs] / around[occurs]
        weights = np.zeros(len(self.classes))
        weights[occurs] = np.median(frequency) / frequency if occurs.any() else 0
        return weights

    def text(self) -> str:
        """All of it, for people."""
        plan = bucket_plan(self.sizes, self.buckets, self.assigned, self.padding)
        return "\n\n".join([_counts(self), _classes(self), plan, faults(self.problems)])


def inspect(
    source: LabelMapSource,
    *,
    buckets: Sequence[Bucket],
    threads: int | None = None,
    progress: bool = True,
) -> LabelInspection:
    """Reads every image and its label map, counts, and adds what fails to `source.problems`.

    Args:
        source: the data set.
        buckets: (height, width) of the batches' images, in pixels.
        threads: that read at the same time; as many as there are processors by default.
        progress: show a progress bar.

    Raises:
        ValueError: where `buckets` are none or not positive.
    """
    buckets = check_buckets(buckets)
    counts = _count_all(source, threads, progress)
    infos = [source.info(i) for i in range(len(source))]
    sizes = np.array([(info.height, info.width) for info in infos], np.int64).reshape(-1, 2)
    heights, widths = sizes.T
    return LabelInspection(
        name=source.name,
        classes=source.classes,
        pixels=counts[:, : len(source.classes)],
        ignored=counts[:, IGNORE],
        usable=counts.any(axis=1),
        sizes=sizes,
        buckets=buckets,
        assigned=assign(heights, widths, buckets),
        padding=padding_share(heights, widths, buckets),
        problems=source.problems,
    )


def _count_all(source: LabelMapSource, threads: int | None, progress: bool) -> Int[np.ndarray, "i 256"]:
    """How many pixels of each image have each value; all 0 where it cannot be used."""

    def count(index: int) -> np.ndarray:
        try:
            source.image(index)
            return np.bincount(source.label_map(index).ravel(), minlength=256)
        except DataError as error:
            kind = getattr(error, "kind", "undecodable image")
            source.problems.add(kind, source.info(index).image_id, str(error), action="image skipped")
            return np.zeros(256, np.int64)

    with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        results = pool.map(count, range(len(source)))
        try:
            return np.stack(list(progress_bar(results, "reading label maps", progress, total=len(source))))
        finally:
            pool.shutdown(cancel_futures=True)  # so that an interrupt does not wait for all the rest


# The sections of the text.


def _counts(found: LabelInspection) -> str:
    total = len(found.usable)
    without = int((found.usable & (found.pixels.sum(axis=1) == 0)).sum())
    each = (found.pixels > 0).sum(axis=1)[found.usable]
    return aligned(
        [
            (f"{found.name}:", f"{total} images with label maps of {len(found.classes)} classes"),
            ("usable", f"{found.usable.sum()} of {total}"),
            ("classes an image", f"{each.mean():.1f} on average, {each.max()} at most" if len(each) else "-"),
            ("not counted", f"{found.ignored_share():.2%} of the pixels; all of them in {without} images"),
            ("image sizes", size_counts(found.sizes)),
        ]
    )


def _classes(found: LabelInspection) -> str:
    rows = [("id", "class", "share of pixels", "images", "share in these", "weight")]
    images, weights = found.images(), found.class_weights()
    for i, (name, share) in enumerate(zip(found.classes, found.shares())):
        mine = found.pixels[:, i] > 0
        within = f"{found.pixels[mine, i].sum() / found.pixels[mine].sum():.2%}" if mine.any() else "-"
        weight = f"{weights[i]:.3g}" if mine.any() else "-"
        rows.append((str(i), name, f"{share:.2%}", str(images[i]), within, weight))
    absent = [name for name, n in zip(found.classes, images) if not n]
    note = f"\nnever seen: {', '.join(absent)}" if absent else ""
    explained = "\nweight: of the cross-entropy, by median frequency balancing (Eigen and Fergus 2015)"
    in_order = f"\nthe weights in order: {', '.join(f'{weight:.3g}' for weight in weights)}"
    return class_table(rows, right=(0, 2, 3, 4, 5)) + explained + in_order + note


# The picture.


def picture(
    source: LabelMapSource, *, count: int = 12, columns: int = 2, side: int = 420, seed: int = 0
) -> UInt8[np.ndarray, "h w 3"]:
    """A sheet of images, each beside itself with its label map laid over. Images that show a new class come first.

    Pixels of the background stay as they are, those that do not count are grey.

    Args:
        source: the data set.
        count: number of images, fewer where fewer can be used.
        columns: pairs side by side.
        side: of each image's longer side on the sheet, in pixels.
        seed: of the choice.
    """
    drawings, captions = [], []
    for index, image, labels in _choose(source, count, seed):
        drawings.append(_pair(image, labels, source, side / max(image.shape[:2])))
        ignored = f", {(labels == IGNORE).mean():.1%} not counted" if (labels == IGNORE).any() else ""
        captions.append(f"{source.info(index).image_id}{ignored}")
    return contact_sheet(drawings, columns=columns, captions=captions)


def _pair(image: np.ndarray, labels: np.ndarray, source: LabelMapSource, scale: float) -> np.ndarray:
    classes, background = (*source.classes, "not counted"), has_background(source.classes)
    colours = np.concatenate([map_colours(source.classes, source.colours), np.full((1, 3), 128, np.uint8)])
    shown = np.where(labels == IGNORE, len(source.classes), labels.astype(np.int64))
    overlay = draw_segmentation(
        image, shown, classes, background=background, colours=colours, legend=False, scale=scale
    )
    gap = np.full((overlay.shape[0], 4, 3), 255, np.uint8)
    both = np.concatenate([enlarge(image, scale), gap, overlay], axis=1)
    seen = [i for i in np.unique(shown).tolist() if i > 0 or not background]
    return with_legend(both, [(classes[i], colours[i]) for i in seen])


def _choose(
    source: LabelMapSource, count: int, seed: int, *, candidates: int = 60
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(index, image, label map) of usable images at random; those come first that show a class which is new."""
    seen: set[int] = set()
    first, rest = [], []
    for index in np.random.default_rng(seed).permutation(len(source))[: max(candidates, count)].tolist():
        try:
            found = (index, source.image(index), source.label_map(index))
        except DataError:
            continue
        classes = set(np.unique(found[2]).tolist()) - {IGNORE}
        (first if classes - seen else rest).append(found)
        seen |= classes
        if len(first) == count:
            break
    return [*first, *rest][:count]
