"""The parts of a report that are about detectors: the AP tables, precision-recall curves, best and worst images."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data.source import Source
from segjax.evaluation.coco_ap import CocoAP, PrecisionRecall
from segjax.evaluation.coco_tables import KINDS
from segjax.evaluation.detection_evaluator import DetectionEvaluator
from segjax.evaluation.text import ASSUMED, VOC_SCORES, class_scores, coco_names, kinds_of, other_scores
from train.charts import Chart, Line
from train.detection_pictures import picture_sections
from train.report import Charts, Section, Table, Text, read_config, read_metrics, write_report
from train.report_facts import machine_facts, training_facts

MOST_LINES = 9
"""Classes drawn in a precision-recall chart before it shows only the mean, the best and the worst ones."""

COCO_NUMBERS = {
    "AP": "mean over IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "AP_small": "objects below 32² pixels",
    "AP_medium": "32² to 96² pixels",
    "AP_large": "from 96² pixels",
    "AR1": "recall, 1 detection an image",
    "AR10": "recall, 10 detections an image",
    "AR100": "recall, 100 detections an image",
    "AR": "recall, 20 detections an image",
    "AR50": "the same at IoU 0.50",
    "AR75": "the same at IoU 0.75",
    "AR_small": "recall of objects below 32² pixels",
    "AR_medium": "recall, 32² to 96² pixels",
    "AR_large": "recall, from 96² pixels",
    "VOC_AP": "VOC AP at IoU 0.50, area",
    "VOC_AP_11point": "VOC AP at IoU 0.50, 11 points",
}


def write_detection_report(
    run_folder: pathlib.Path | str,
    source: Source,
    results: Mapping[str, float],
    evaluator: DetectionEvaluator | CocoAP,
    *,
    facts: Mapping[str, Any] | None = None,
    pictures: int = 6,
) -> pathlib.Path:
    """Writes the `report.html` of a detector's run and returns its path.

    Args:
        run_folder: With `metrics.jsonl` and `config.json`, where they exist.
        source: What was evaluated; the pictures are decoded from it and its faults are listed.
        results: All scores by name, those of `evaluator` and any others.
        evaluator: After the last `update`.
        facts: Further values to show first, by name.
        pictures: How many of the best and of the worst images to show.
    """
    folder = pathlib.Path(run_folder)
    config = read_config(folder)
    curves = {kind: [coco.precision_recall(t) for t in (0.5, 0.75)] for kind, coco in evaluator.coco.items()}
    thresholds = best_thresholds(next(iter(curves.values()))[0]) if curves else {}
    rows = read_metrics(folder / "metrics.jsonl")
    return write_report(
        folder,
        name=config.get("name", folder.name),
        facts=overview(results, len(evaluator.collector.seen), rows, config) | dict(facts or {}),
        sections=[
            results_section(results, source.classes),
            classes_section(results, thresholds, source.classes),
            precision_recall_section(curves),
        ],
        pictures=picture_sections(evaluator.collector, count=pictures),
        scores=training_scores(results),
        others=list(other_scores(results, source.classes)),
        problems=source.problems,
    )


def overview(
    results: Mapping[str, float], images: int, rows: Sequence[Mapping[str, float]], config: Mapping[str, Any]
) -> dict[str, Any]:
    """The main scores, how long and how fast the run trained, and what this process ran on."""
    kinds = kinds_of(results)
    names = ("AP", "AP50", "AP75") if len(kinds) == 1 else ("AP", "AP50")
    main = [KINDS[kind].prefix + name for kind in kinds for name in names]
    facts: dict[str, Any] = {name: results[name] for name in main}
    facts["Images evaluated"] = images
    return facts | training_facts(rows, batch_size=config.get("recipe", {}).get("batch_size")) | machine_facts()


def training_scores(results: Mapping[str, float]) -> tuple[str, ...]:
    """The scores to draw over training: of one kind its precisions, of several AP and AP50 of each."""
    kinds = kinds_of(results)
    if len(kinds) == 1:
        return tuple(KINDS[kinds[0]].prefix + name for name in coco_names(kinds[0]) if name.startswith("AP"))
    return tuple(KINDS[kind].prefix + name for kind in kinds for name in ("AP", "AP50"))


def results_section(results: Mapping[str, float], classes: Sequence[str]) -> Section:
    """The scores over all classes: COCO's and VOC's with a column for each kind of output and what each means, then
    whatever else was scored."""
    kinds = kinds_of(results) or ("boxes",)
    known = {name for kind in kinds for name in coco_names(kind)} | set(VOC_SCORES)
    rows = []
    for name, meaning in COCO_NUMBERS.items():
        values = [results.get(KINDS[kind].prefix + name) for kind in kinds]
        if name in known and any(value is not None for value in values):
            rows.append((name, *(float("nan") if value is None else value for value in values), meaning))
    blocks: list[Any] = [Table(("Score", *map(str.capitalize, kinds), ""), rows)]
    blocks.append(Text("A dash: no such score, or no object of that kind among the images evaluated."))
    if "keypoints" in kinds:
        blocks.append(Text(_about_joints(results)))
    others = list(other_scores(results, classes).items())
    return Section("Results", [*blocks, *([Table(("Other scores", "Value"), others)] if others else [])])


def _about_joints(results: Mapping[str, float]) -> str:
    text = "For keypoints the similarity of joints (OKS) stands in the place of IoU"
    if ASSUMED not in results:
        return f"{text}, with the sigmas of the data set."
    return f"{text}, with a sigma of {results[ASSUMED]:g} for every joint, since the data set states none."


def classes_section(
    results: Mapping[str, float], thresholds: Mapping[str, tuple[float, float]], classes: Sequence[str]
) -> Section:
    """A row a class: the scores named `<score>/<class>`, and the score threshold with the best F1.

    Args:
        results: Scores by name.
        thresholds: (threshold, F1) of each class, from `best_thresholds`.
        classes: The class map.
    """
    columns = class_scores(results, classes)
    missing = float("nan")
    rows = [
        (
            name,
            *(results.get(f"{score}/{name}", missing) for score in columns),
            *thresholds.get(name, (missing, missing)),
        )
        for name in classes
    ]
    note = Text("Best threshold: the score from which on detections have the highest F1 at IoU 0.50 on these images.")
    return Section("Classes", [Table(("Class", *columns, "Best threshold", "F1 there"), rows), note])


def best_thresholds(curves: PrecisionRecall) -> dict[str, tuple[float, float]]:
    """For each class the score threshold of highest F1, and that F1; NaN for a class of which nothing is found."""
    found = {}
    for name, precision, scores in zip(curves.classes, curves.precision, curves.scores):
        sums = precision + curves.recall
        f1 = np.where(sums > 0, 2 * precision * curves.recall / np.where(sums > 0, sums, 1), 0.0)
        f1 = np.where(np.isnan(scores), -1.0, f1)
        best = int(f1.argmax())
        found[name] = (float(scores[best]), float(f1[best])) if f1[best] > 0 else (float("nan"), float("nan"))
    return found


def precision_recall_section(curves: Mapping[str, Sequence[PrecisionRecall]]) -> Section:
    """One chart a kind of output and IoU threshold: precision over recall for the mean over classes, and each class.

    With more than `MOST_LINES` classes only the best and the worst of them are drawn, by mean precision.
    """
    pairs = [(kind, curve) for kind, of_kind in curves.items() for curve in of_kind]
    charts = [
        Chart(_chart_title(kind, curve, len(curves)), _class_lines(curve), "recall", "precision", (0, 1), (0, 1))
        for kind, curve in pairs
    ]
    many = any(np.sum(~np.isnan(curve.precision).any(axis=1)) > MOST_LINES for _, curve in pairs)
    few = f"Of the classes, the {MOST_LINES // 2} best and the {MOST_LINES // 2} worst at each IoU are drawn."
    return Section("Precision and recall", [*([Text(few)] if many else []), Charts(charts)])


def _chart_title(kind: str, curve: PrecisionRecall, kinds: int) -> str:
    title = f"{'OKS' if kind == 'keypoints' else 'IoU'} {curve.iou_threshold:.2f}"
    return f"{kind.capitalize()}, {title}" if kinds > 1 else title


def _class_lines(curve: PrecisionRecall) -> list[Line]:
    present = [k for k, row in enumerate(curve.precision) if not np.isnan(row).any()]
    if not present:
        return []
    mean = Line("mean over classes", curve.recall, curve.precision[present].mean(axis=0), bold=True)
    if len(present) == 1:
        return [Line(curve.classes[present[0]], mean.x, mean.y, bold=True)]
    if len(present) > MOST_LINES:
        ranked = sorted(present, key=lambda k: -curve.precision[k].mean())
        present = ranked[: MOST_LINES // 2] + ranked[-(MOST_LINES // 2) :]
    return [mean] + [Line(curve.classes[k], curve.recall, curve.precision[k]) for k in present]
