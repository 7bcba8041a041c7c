"""Scores as text, for a terminal."""

from collections.abc import Mapping, Sequence

from segjax.evaluation.coco_tables import KINDS

PRECISIONS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
RECALLS = ("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large")
JOINT_RECALLS = ("AR", "AR50", "AR75", "AR_medium", "AR_large")
VOC_SCORES = ("VOC_AP", "VOC_AP_11point")
ASSUMED = "keypoint_assumed_sigma"
NOT_SCORES = ("images_per_second",)

Rows = Sequence[Sequence[str | float]]


def kinds_of(results: Mapping[str, float]) -> tuple[str, ...]:
    """The kinds of output ("boxes", "masks", "keypoints") of which COCO scores are among `results`."""
    return tuple(kind for kind, rule in KINDS.items() if f"{rule.prefix}AP" in results)


def coco_names(kind: str) -> tuple[str, ...]:
    """COCO's scores of a kind over all classes, without the kind's prefix."""
    shown = [name for name in PRECISIONS if name != "AP_small" or kind != "keypoints"]
    return (*shown, *(JOINT_RECALLS if kind == "keypoints" else RECALLS))


def class_scores(results: Mapping[str, float], classes: Sequence[str]) -> tuple[str, ...]:
    """The scores that `results` has by class, as `<score>/<class>`, in order."""
    known = set(classes)
    pairs = [name.split("/", 1) for name in results if "/" in name]
    return tuple(dict.fromkeys(score for score, name in pairs if name in known))


def other_scores(results: Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """What is among `results` beside COCO's and VOC's scores and those of single classes: a user's own."""
    known = {KINDS[kind].prefix + name for kind in kinds_of(results) for name in coco_names(kind)}
    known |= {*VOC_SCORES, *NOT_SCORES, ASSUMED}
    known |= {f"{score}/{name}" for score in class_scores(results, classes) for name in classes}
    return {name: value for name, value in results.items() if name not in known}


def text_table(results: Mapping[str, float], classes: Sequence[str]) -> str:
    """COCO's numbers for each kind of output, VOC's, AP of each class, and all other scores, as lines of text.

    Args:
        results: Scores by name, as `DetectionEvaluator.compute` gives them, and any others. Those that are missing are
            left out, NaN is a dash.
        classes: The class map.
    """
    kinds = kinds_of(results)
    parts = []
    for names, which in ((PRECISIONS, kinds), (RECALLS, _without_joints(kinds))):
        parts.append(grid(("", *names), [(kind, *_values(results, kind, names)) for kind in which]))
    if "keypoints" in kinds:
        parts.append(grid(("", *JOINT_RECALLS), [("keypoints", *_values(results, "keypoints", JOINT_RECALLS))]))
    if ASSUMED in results:
        sigma = results[ASSUMED]
        parts.append(f"  keypoints: a sigma of {sigma:g} is assumed for every joint, since the data set states none")
    if "VOC_AP" in results:
        parts.append(f"  VOC AP (area) {results['VOC_AP']:.3f}, 11-point {results['VOC_AP_11point']:.3f}")
    columns = [score for score in class_scores(results, classes) if not score.startswith("VOC_")]
    missing = float("nan")
    rows = [(name, *(results.get(f"{score}/{name}", missing) for score in columns)) for name in classes]
    parts.append(grid(("class", *columns), rows if columns else []))
    parts.append(grid(("other scores", ""), list(other_scores(results, classes).items())))
    return "\n" + "\n\n".join(part for part in parts if part)


def _without_joints(kinds: Sequence[str]) -> list[str]:
    return [kind for kind in kinds if kind != "keypoints"]


def _values(results: Mapping[str, float], kind: str, names: Sequence[str]) -> list[float]:
    return [results.get(KINDS[kind].prefix + name, float("nan")) for name in names]


def grid(header: Sequence[str], rows: Rows) -> str:
    """Columns as wide as they need be, text to the left and numbers to the right. Empty without rows."""
    if not rows:
        return ""
    cells = [list(header), *([row[0], *map(_shown, row[1:])] for row in rows)]
    widths = [max(6 * (i > 0), *(len(row[i]) for row in cells)) for i in range(len(header))]
    lines = ("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]) for row in cells)
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _shown(value: float) -> str:
    return "–" if value != value else f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"
