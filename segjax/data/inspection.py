"""What a data set holds and what training will make of it, before the first step: as numbers, text and a picture."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from segjax.data.buckets import Bucket, assign, check_buckets, padding_share
from segjax.data.inspection_text import aligned, bucket_plan, class_table, faults, progress_bar, scales, size_counts
from segjax.data.segmentations import segmentation_to_mask
from segjax.data.source import Annotations, DataError, Problems, Source
from segjax.visualize import contact_sheet, draw_objects

SMALL, LARGE = 32.0**2, 96.0**2
"""Square pixels between which COCO calls an object medium."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The counts of a data set. `n` objects that are trained on (neither crowd nor difficult), `i` images, `c` classes.

    `text` writes them out.
    """

    name: str
    classes: tuple[str, ...]
    labels: Int[np.ndarray, "n"]
    areas: Float[np.ndarray, "n"]
    """In square pixels of the image file, as COCO sorts objects by: of the mask where there is one, else of the box."""
    boxes: Float[np.ndarray, "n 2"]
    """(width, height) of each object's box in pixels of the image file."""
    owners: Int[np.ndarray, "n"]
    """Index of each object's image."""
    crowd: int
    """Crowd regions, which are not trained on."""
    difficult: int
    """Difficult objects that are not crowd regions, not trained on either."""
    without_mask: int | None
    """Objects without a segmentation, of those trained on; None where the source has no segmentations at all."""
    without_keypoints: int | None
    """Objects with no labelled joint, of those trained on; None where the source has no joints."""
    sizes: Int[np.ndarray, "i 2"]
    """(height, width) of each image in pixels."""
    buckets: tuple[Bucket, ...]
    assigned: Int[np.ndarray, "i"]
    """The bucket of each image."""
    padding: Float[np.ndarray, "i"]
    """The share of each image's bucket, in 0..1, that is padding."""
    capacity: int
    problems: Problems
    decoded: Bool[np.ndarray, "i"] | None
    """Which images decode; None where it was not tried."""

    def objects_per_image(self) -> Int[np.ndarray, "i"]:
        """Number of objects of each image that are trained on."""
        return np.bincount(self.owners, minlength=len(self.sizes))

    def over_capacity(self) -> tuple[int, int]:
        """(objects beyond the capacity, images that have them). Each epoch trains without these objects."""
        beyond = np.maximum(self.objects_per_image() - self.capacity, 0)
        return int(beyond.sum()), int((beyond > 0).sum())

    def size_counts(self) -> dict[str, int]:
        """Number of small, medium and large objects as COCO defines them, by area."""
        large = int((self.areas > LARGE).sum())
        small = int((self.areas < SMALL).sum())
        return {"small": small, "medium": len(self.areas) - small - large, "large": large}

    def scales(self) -> Float[np.ndarray, "i"]:
        """The factor by which each image is resized to fit its bucket."""
        return scales(self.sizes, self.buckets, self.assigned)

    def text(self) -> str:
        """All of it, for people."""
        sections = [_counts, _classes, _object_sizes, _bucket_plan, _capacity, _faults]
        return "\n\n".join(section(self) for section in sections)


def inspect(
    source: Source,
    *,
    buckets: Sequence[Bucket],
    capacity: int,
    decode: bool = True,
    threads: int | None = None,
    progress: bool = True,
) -> Inspection:
    """Counts what is in a data set; with `decode`, also decodes every image and adds what fails to `source.problems`.

    Args:
        source: the data set.
        buckets: (height, width) of the batches' images, in pixels.
        capacity: number of objects an image can have in training.
        decode: decode all images.
        threads: that decode at the same time; as many as there are processors by default.
        progress: show progress bars.

    Raises:
        ValueError: where `capacity` is negative, or `buckets` are none or not positive.
    """
    buckets = check_buckets(buckets)
    if capacity < 0:
        raise ValueError(f"capacity={capacity} must not be negative")
    indices = range(len(source))
    infos = [source.info(i) for i in indices]
    found = [_trained(source.annotations(i)) for i in progress_bar(indices, "reading annotations", progress)]
    sizes = np.array([(info.height, info.width) for info in infos], np.int64).reshape(-1, 2)
    heights, widths = sizes.T
    objects, masks = sum(len(one.labels) for one in found), sum(one.masks for one in found)
    return Inspection(
        name=source.name,
        classes=source.classes,
        labels=np.concatenate([one.labels for one in found]),
        areas=np.concatenate([one.areas for one in found]),
        boxes=np.concatenate([one.boxes for one in found]),
        owners=np.repeat(np.arange(len(source)), [len(one.labels) for one in found]),
        crowd=sum(one.crowd for one in found),
        difficult=sum(one.difficult for one in found),
        without_mask=objects - masks if masks else None,
        without_keypoints=None if source.keypoints is None else objects - sum(one.keypoints for one in found),
        sizes=sizes,
        buckets=buckets,
        assigned=assign(heights, widths, buckets),
        padding=padding_share(heights, widths, buckets),
        capacity=capacity,
        problems=source.problems,
        decoded=_decode_all(source, threads, progress) if decode else None,
    )


class _Trained(NamedTuple):
    """What is kept of one image's annotations."""

    labels: np.ndarray
    areas: np.ndarray
    boxes: np.ndarray
    """(width, height)."""
    crowd: int
    difficult: int
    masks: int
    """How many of the objects have a segmentation."""
    keypoints: int
    """How many of the objects have a labelled joint."""


def _trained(annotations: Annotations) -> _Trained:
    keep = annotations.counted
    boxes, points = annotations.boxes[keep], annotations.keypoints
    return _Trained(
        labels=annotations.labels[keep],
        areas=annotations.areas[keep],
        boxes=boxes[:, 2:] - boxes[:, :2],
        crowd=int(annotations.crowd.sum()),
        difficult=int((annotations.difficult & ~annotations.crowd).sum()),
        masks=sum(annotations.segmentations[i] is not None for i in np.flatnonzero(keep)),
        keypoints=0 if points is None else int((points[keep][..., 2] > 0).any(axis=1).sum()),
    )


def _decode_all(source: Source, threads: int | None, progress: bool) -> Bool[np.ndarray, "i"]:
    def decodes(index: int) -> bool:
        try:
            source.image(index)
        except DataError as error:
            kind = getattr(error, "kind", "undecodable image")
            source.problems.add(kind, source.info(index).image_id, str(error), action="image skipped")
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        results = pool.map(decodes, range(len(source)))
        try:
            return np.array(list(progress_bar(results, "decoding images", progress, total=len(source))), bool)
        finally:
            pool.shutdown(cancel_futures=True)  # so that an interrupt does not wait for all the rest


# The sections of the text.


def _counts(found: Inspection) -> str:
    per_image = found.objects_per_image()
    decoded = "not tried" if found.decoded is None else f"{found.decoded.sum()} of {len(found.decoded)}"
    total = len(found.labels)
    lacking = (("masks", found.without_mask), ("keypoints", found.without_keypoints))
    return aligned(
        [
            (f"{found.name}:", f"{len(found.sizes)} images, {total} objects of {len(found.classes)} classes"),
            ("without objects", f"{(per_image == 0).sum()} images"),
            ("objects an image", f"{per_image.mean():.1f} on average, {per_image.max()} at most"),
            ("not trained on", f"{found.crowd} crowd regions, {found.difficult} difficult objects"),
            *((name, f"{total - n} objects, {n} without") for name, n in lacking if n is not None),
            ("image sizes", size_counts(found.sizes)),
            ("decoded", decoded),
        ]
    )


def _classes(found: Inspection) -> str:
    sides = np.sqrt(found.boxes.prod(axis=1))
    rows = [("id", "class", "objects", "images", "median size")]
    for i, name in enumerate(found.classes):
        mine = found.labels == i
        size = f"{np.median(sides[mine]):.0f}" if mine.any() else "-"
        rows.append((str(i), name, str(mine.sum()), str(len(np.unique(found.owners[mine]))), size))
    return class_table(rows, right=(0, 2, 3, 4))


def _object_sizes(found: Inspection) -> str:
    if not len(found.labels):
        return "box sizes: no objects to train on"
    width, height = found.boxes.T
    side = np.sqrt(width * height)
    total = len(found.labels)
    shares = ", ".join(f"{n} {name} ({n / total:.0%})" for name, n in found.size_counts().items())
    rows = [("quantile", *(f"{q:.0%}" for q in QUANTILES))]
    for name, values, digits in (
        ("box size (square root of its area, in pixels)", side, 1),
        ("the same in its bucket", side * found.scales()[found.owners], 1),
        ("aspect ratio (width / height)", width / height, 2),
    ):
        rows.append((name, *(f"{v:.{digits}f}" for v in np.quantile(values, QUANTILES))))
    return f"objects by area (COCO's limits are 32² and 96² pixels): {shares}\n" + aligned(rows, right=range(1, 8))


def _bucket_plan(found: Inspection) -> str:
    return bucket_plan(found.sizes, found.buckets, found.assigned, found.padding)


def _capacity(found: Inspection) -> str:
    objects, images = found.over_capacity()
    if not objects:
        return f"capacity: no image has more than the {found.capacity} objects there is room for"
    return (
        f"capacity: {objects} objects in {images} images exceed the {found.capacity} there is room for in an image; "
        f"a capacity of {found.objects_per_image().max()} holds all"
    )


def _faults(found: Inspection) -> str:
    return faults(found.problems)


# The picture.


def picture(
    source: Source, *, count: int = 12, columns: int = 4, side: int = 420, seed: int = 0
) -> UInt8[np.ndarray, "h w 3"]:
    """A sheet of labelled images: boxes, masks and joints as they were read. Images that show a new class come first.

    Args:
        source: the data set.
        count: number of images, fewer where fewer can be decoded.
        columns: images side by side.
        side: of each image's longer side on the sheet, in pixels.
        seed: of the choice.
    """
    drawings, captions = [], []
    for index in _choose(source, seed):
        if len(drawings) == count:
            break
        try:
            image = source.image(index)
        except DataError:
            continue
        found, scale = source.annotations(index), side / max(image.shape[:2])
        joints = source.keypoints.skeleton if source.keypoints else ()
        drawings.append(
            draw_objects(
                image,
                found.boxes,
                found.labels,
                masks=_masks(found, *image.shape[:2]),
                keypoints=found.keypoints,
                skeleton=joints,
                classes=source.classes,
                scale=scale,
            )
        )
        captions.append(f"{source.info(index).image_id}: {len(found.labels)} objects")
    return contact_sheet(drawings, columns=columns, captions=captions)


def _choose(source: Source, seed: int, *, candidates: int = 500) -> list[int]:
    """Images in random order: first those that show a class which none before them does, then those with objects."""
    order = np.random.default_rng(seed).permutation(len(source))[:candidates].tolist()
    seen: set[int] = set()
    rank = {}
    for index in order:
        labels = set(source.annotations(index).labels.tolist())
        rank[index] = 0 if labels - seen else 1 if labels else 2
        seen |= labels
    return sorted(order, key=rank.__getitem__)


def _masks(found: Annotations, height: int, width: int) -> Bool[np.ndarray, "n h w"] | None:
    if all(segmentation is None for segmentation in found.segmentations):
        return None
    empty = np.zeros((height, width), bool)
    return np.stack([empty if s is None else segmentation_to_mask(s, height, width) for s in found.segmentations])
