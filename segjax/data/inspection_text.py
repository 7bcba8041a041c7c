"""What the inspections of objects and of label maps have in common: tables, the bucket plan, image sizes, faults."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from segjax.data.buckets import Bucket, fit
from segjax.data.source import Problems

MAX_CLASSES = 100
"""Rows of the table of classes; a data set of a thousand classes would bury the rest of the text."""


def aligned(rows: Sequence[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """Rows as columns of equal width, those in `right` aligned to the right."""
    right = frozenset(right)
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = (
        "  ".join(cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def class_table(rows: Sequence[Sequence[str]], *, right: Iterable[int]) -> str:
    """A heading and a row for each class, of which the first `MAX_CLASSES` are shown."""
    more = len(rows) - 1 - MAX_CLASSES
    table = aligned(rows[: MAX_CLASSES + 1], right=right)
    return table + (f"\n... and {more} more classes" if more > 0 else "")


def size_counts(sizes: Int[np.ndarray, "i 2"]) -> str:
    """How many (height, width) there are, and which are most frequent."""
    shapes, counts = np.unique(sizes, axis=0, return_counts=True)
    common = [f"{w}x{h} ({n})" for (h, w), n in sorted(zip(shapes.tolist(), counts.tolist()), key=lambda x: -x[1])[:3]]
    return f"{len(shapes)}, most often {', '.join(common)} (width x height)"


def scales(
    sizes: Int[np.ndarray, "i 2"], buckets: Sequence[Bucket], assigned: Int[np.ndarray, "i"]
) -> Float[np.ndarray, "i"]:
    """The factor by which each image is resized to fit its bucket."""
    return np.array([fit(*size, buckets[b])[2] for size, b in zip(sizes.tolist(), assigned.tolist())])


def bucket_plan(
    sizes: Int[np.ndarray, "i 2"],
    buckets: Sequence[Bucket],
    assigned: Int[np.ndarray, "i"],
    padding: Float[np.ndarray, "i"],
) -> str:
    """Images, padding and scale of each bucket.

    Args:
        sizes: (height, width) of each image in pixels.
        assigned: the bucket of each image.
        padding: the share of each image's bucket, in 0..1, that is padding.
    """
    rows = [("bucket (height x width)", "images", "padding", "median scale")]
    factors = scales(sizes, buckets, assigned)
    for i, (height, width) in enumerate(buckets):
        mine = assigned == i
        shown = (f"{padding[mine].mean():.1%}", f"{np.median(factors[mine]):.2f}") if mine.any() else ("-", "-")
        rows.append((f"{height} x {width}", str(mine.sum()), *shown))
    pixels = np.prod(buckets, axis=1)[assigned]
    share = (padding * pixels).sum() / pixels.sum()
    return aligned(rows, right=(1, 2, 3)) + f"\npadding is {share:.1%} of all pixels that training will see"


def faults(problems: Problems) -> str:
    """The faults of a data set by kind."""
    if not len(problems):
        return "faults: none"
    return f"faults: {len(problems)}\n" + "\n".join("  " + line for line in problems.summary().splitlines())


def progress_bar(items: Iterable, what: str, shown: bool, total: int | None = None) -> tqdm:
    """The items, with a bar where it takes more than a second."""
    return tqdm(items, desc=what, unit="image", total=total, disable=not shown, delay=1, leave=False)
