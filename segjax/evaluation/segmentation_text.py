"""The scores of semantic segmentation as text, for a terminal."""

from collections.abc import Mapping, Sequence

from segjax.evaluation.text import class_scores, grid, other_scores

SCORES = {
    "mIoU": "intersection over union, mean over classes",
    "pixel_accuracy": "share of the labelled pixels that is right",
    "class_accuracy": "recall, mean over classes",
    "frequency_IoU": "IoU, classes weighted by their pixels",
    "boundary_F": "boundaries met within 0.75 % of the diagonal, mean over images",
}
"""The scores over all classes and what each is, the main one first."""
CLEANED = "cleaned_"
"""Before the names of the scores of maps that were cleaned up by superpixels."""


def prefixes(results: Mapping[str, float]) -> tuple[str, ...]:
    """What the names of the scores among `results` begin with: nothing, and `CLEANED` where maps were cleaned up."""
    return tuple(prefix for prefix in ("", CLEANED) if f"{prefix}mIoU" in results)


def further_scores(results: Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """What is among `results` beside these scores and those of single classes: a user's own."""
    known = {f"{prefix}{name}" for prefix in prefixes(results) for name in SCORES}
    return {name: value for name, value in other_scores(results, classes).items() if name not in known}


def segmentation_table(results: Mapping[str, float], classes: Sequence[str]) -> str:
    """The scores over all classes, those of each class, and all others, as lines of text. NaN is a dash.

    Args:
        results: Scores by name, as `SegmentationEvaluator.compute` gives them, and any others.
        classes: The class map.
    """
    missing = float("nan")
    names = [name for name in SCORES if name in results]
    rows = [
        (prefix.rstrip("_") or "pixels", *(results.get(f"{prefix}{name}", missing) for name in names))
        for prefix in prefixes(results)
    ]
    columns = class_scores(results, classes)
    by_class = [(name, *(results.get(f"{score}/{name}", missing) for score in columns)) for name in classes]
    parts = [
        grid(("", *names), rows),
        grid(("class", *columns), by_class if columns else []),
        grid(("other scores", ""), list(further_scores(results, classes).items())),
    ]
    return "\n" + "\n\n".join(part for part in parts if part)
