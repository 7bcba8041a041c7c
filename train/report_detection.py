"""The parts of a report that are about detectors: the AP tables, precision-recall curves, best and worst images."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segjax.data.source import Source
from segjax.evaluation.coco_ap import CocoAP, PrecisionRecall
from segjax.evaluation.image_errors import ImageErrors, best_and_worst, detections_of, image_errors
from segjax.visualize import draw_objects, side_by_side
from train.charts import Chart, Line
from train.report import Charts, Picture, Pictures, Section, Table, Text, read_config, read_metrics, write_report
from train.report_facts import machine_facts, training_facts

SCORE_THRESHOLD = 0.5
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
    evaluator: CocoAP,
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
    curves = [evaluator.precision_recall(threshold) for threshold in (0.5, 0.75)]
    sections = [results_section(results), classes_section(results, best_thresholds(curves[0]))]
    return write_report(
        folder,
        name=config.get("name", folder.name),
        facts=overview(results, evaluator, read_metrics(folder / "metrics.jsonl"), config) | dict(facts or {}),
        sections=[*sections, precision_recall_section(curves)],
        pictures=picture_sections(evaluator, count=pictures),
        scores=("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
        problems=source.problems,
    )


def overview(
    results: Mapping[str, float],
    evaluator: CocoAP,
    rows: Sequence[Mapping[str, float]],
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """The main scores, how long and how fast the run trained, and what this process ran on."""
    facts = {name: results[name] for name in ("AP", "AP50", "AP75") if name in results}
    facts["Images evaluated"] = len(evaluator.collector.seen)
    return facts | training_facts(rows, batch_size=config.get("recipe", {}).get("batch_size")) | machine_facts()


def results_section(results: Mapping[str, float]) -> Section:
    """The scores over all classes, those without a "/" in their name, and what each means."""
    names = [name for name in results if "/" not in name and name != "images_per_second"]
    rows = [(name, results[name], COCO_NUMBERS.get(name, "")) for name in names]
    note = Text("A dash: no object of that kind among the images evaluated.")
    return Section("Results", [Table(("Score", "Value", ""), rows), note])


def classes_section(results: Mapping[str, float], thresholds: Mapping[str, tuple[float, float]]) -> Section:
    """A row a class: the scores named `<score>/<class>`, and the score threshold with the best F1.

    Args:
        results: Scores by name.
        thresholds: (threshold, F1) of each class, from `best_thresholds`.
    """
    pairs = [name.split("/", 1) for name in results if "/" in name]
    columns = list(dict.fromkeys(score for score, _ in pairs))
    names = list(dict.fromkeys(name for _, name in pairs))
    nothing = (float("nan"), float("nan"))
    rows = [
        (name, *(results.get(f"{score}/{name}", float("nan")) for score in columns), *thresholds.get(name, nothing))
        for name in names
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


def precision_recall_section(curves: Sequence[PrecisionRecall]) -> Section:
    """One chart an IoU threshold: precision over recall for the mean over classes, and for each class.

    With more than `MOST_LINES` classes only the best and the worst of them are drawn, by mean precision.
    """
    charts = [
        Chart(f"IoU {curve.iou_threshold:.2f}", _class_lines(curve), "recall", "precision", (0, 1), (0, 1))
        for curve in curves
    ]
    many = any(np.sum(~np.isnan(curve.precision).any(axis=1)) > MOST_LINES for curve in curves)
    few = f"Of the classes, the {MOST_LINES // 2} best and the {MOST_LINES // 2} worst at each IoU are drawn."
    return Section("Precision and recall", [*([Text(few)] if many else []), Charts(charts)])


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


def picture_sections(evaluator: CocoAP, *, count: int) -> list[Section]:
    """The worst and the best images, ground truth beside what was predicted, each with its errors as caption."""
    rows = image_errors(evaluator.collector, score_threshold=SCORE_THRESHOLD)
    best, worst = best_and_worst(rows, count)
    note = (
        f"Ground truth left, detections from score {SCORE_THRESHOLD} on right. Errors are objects missed and "
        "detections that are wrong: on nothing, of the wrong class, or of an object found before (IoU 0.50). "
        "Crowd and difficult objects are drawn but not counted."
    )
    sections = []
    for title, chosen in (("Worst images", worst), ("Best images", best)):
        if chosen:
            pictures = [error_picture(evaluator, row) for row in chosen]
            sections.append(Section(title, [Text(note), Pictures(pictures)]))
    return sections


def error_picture(evaluator: CocoAP, row: ImageErrors) -> Picture:
    """An image with its ground truth beside what was predicted, and its errors in words."""
    source = evaluator.collector.source
    image, truth = source.image(row.sample), source.annotations(row.sample)
    found = detections_of(evaluator.collector, row.sample)
    kept = found.scores >= SCORE_THRESHOLD
    left = draw_objects(image, truth.boxes, truth.labels, classes=source.classes)
    right = draw_objects(image, found.boxes[kept], found.labels[kept], found.scores[kept], classes=source.classes)
    missed = f"{row.missed} of {row.objects} objects missed" if row.objects else "no objects"
    caption = f"Image {source.info(row.sample).image_id}: {missed}, {row.wrong} wrong detections"
    return Picture(side_by_side(left, right), caption)
