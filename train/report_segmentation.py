"""The parts of a report that are about semantic segmentation: scores, classes, confusion, best and worst images."""

import dataclasses
import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from segjax.data.source import LabelMapSource
from segjax.evaluation.segmentation_evaluator import SegmentationEvaluator
from segjax.evaluation.segmentation_text import CLEANED, SCORES, further_scores, prefixes
from segjax.evaluation.text import class_scores
from train.report import Section, Table, Text, read_config, read_metrics, write_report
from train.report_facts import machine_facts, training_facts
from train.segmentation_pictures import picture_sections


def write_segmentation_report(
    run_folder: pathlib.Path | str,
    source: LabelMapSource,
    results: Mapping[str, float],
    evaluator: SegmentationEvaluator,
    *,
    facts: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes the `report.html` of a segmenter's run and returns its path.

    Args:
        run_folder: With `metrics.jsonl` and `config.json`, where they exist.
        source: What was evaluated; the pictures are decoded from it and its faults are listed.
        results: All scores by name, those of `evaluator` and any others.
        evaluator: After the last `update`; it decides how many pictures there are.
        facts: Further values to show first, by name.
    """
    folder = pathlib.Path(run_folder)
    config, rows = read_config(folder), read_metrics(folder / "metrics.jsonl")
    first = {f"{prefix}{name}": results[f"{prefix}{name}"] for prefix in prefixes(results) for name in _first(prefix)}
    first |= {"Images evaluated": evaluator.seen}
    first |= training_facts(rows, batch_size=config.get("recipe", {}).get("batch_size")) | machine_facts()
    return write_report(
        folder,
        name=config.get("name", folder.name),
        facts=first | dict(facts or {}),
        sections=[
            results_section(results, source.classes),
            classes_section(results, evaluator.confusion, source.classes),
            confusion_section(evaluator.confusion, source.classes),
        ],
        pictures=picture_sections(evaluator),
        scores=[f"{prefix}{name}" for prefix in prefixes(results) for name in SCORES],
        others=list(further_scores(results, source.classes)),
        problems=source.problems,
    )


def _first(prefix: str) -> tuple[str, ...]:
    return ("mIoU",) if prefix else ("mIoU", "pixel_accuracy")


def results_section(results: Mapping[str, float], classes: Sequence[str]) -> Section:
    """The scores over all classes, with a column for cleaned maps where there are any, and whatever else was scored."""
    titles = {"": "Value", CLEANED: "Cleaned up"}
    shown = prefixes(results) or ("",)
    rows = [
        (name, *(results.get(f"{prefix}{name}", float("nan")) for prefix in shown), meaning)
        for name, meaning in SCORES.items()
        if f"{shown[0]}{name}" in results
    ]
    blocks: list[Any] = [Table(("Score", *(titles[prefix] for prefix in shown), ""), rows)]
    blocks.append(Text("Over all labelled pixels of the images evaluated, at the size of their files."))
    if CLEANED in shown:
        blocks.append(Text("Cleaned up: each superpixel of the image has the class of the highest mean probability."))
    others = list(further_scores(results, classes).items())
    return Section("Results", [*blocks, *([Table(("Other scores", "Value"), others)] if others else [])])


def classes_section(results: Mapping[str, float], matrix: Int[np.ndarray, "c c"], classes: Sequence[str]) -> Section:
    """A row a class: its share of the labelled pixels, and the scores named `<score>/<class>`."""
    columns, missing = class_scores(results, classes), float("nan")
    total = matrix.sum()
    shares = matrix.sum(1) / total if total else np.full(len(classes), missing)
    rows = [
        (name, share, *(results.get(f"{score}/{name}", missing) for score in columns))
        for name, share in zip(classes, shares.tolist())
    ]
    note = Text("A dash: the class is nowhere in these images, or has no boundary there.")
    return Section("Classes", [Table(("Class", "Share of pixels", *columns), rows), note])


def confusion_section(matrix: Int[np.ndarray, "c c"], classes: Sequence[str]) -> Section:
    """Which classes are taken for which."""
    note = (
        "Rows are the truth, columns the prediction: of the pixels of the row's class, how many in a hundred are taken "
        "for the column's. Nothing is said of less than half of one in a hundred. Deeper orange is more confusion."
    )
    return Section("Confusion", [Text(note), HeatTable(matrix, classes)])


@dataclasses.dataclass(frozen=True)
class HeatTable:
    """A confusion matrix in percent of each row, coloured: right ones blue, wrong ones orange."""

    matrix: Int[np.ndarray, "c c"]
    classes: Sequence[str]

    def html(self) -> str:
        """The table, in a box that scrolls where it is wider than the page."""
        names = [html.escape(name) for name in self.classes]
        head = "".join(f"<th><span>{name}</span></th>" for name in names)
        rows = "".join(f"<tr><th>{name}</th>{self._cells(row)}</tr>" for row, name in enumerate(names))
        return (
            f'<div class="scroll"><table class="heat"><thead><tr><th></th>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )

    def _cells(self, row: int) -> str:
        total = int(self.matrix[row].sum())
        if not total:
            return "<td>–</td>" * len(self.classes)
        return "".join(self._cell(row, column, total) for column in range(len(self.classes)))

    def _cell(self, row: int, column: int, total: int) -> str:
        count = int(self.matrix[row, column])
        share = count / total
        # By its root, so that a confusion of a few in a hundred is seen too.
        depth = share if row == column else share**0.5
        kind = ("right" if row == column else "wrong") + (" deep" if depth > 0.55 else "")
        title = html.escape(f"{self.classes[row]} taken for {self.classes[column]}: {count:,} of {total:,} pixels")
        text = f"{100 * share:.0f}" if share >= 0.005 else ""
        return f'<td class="{kind}" style="--depth: {100 * depth:.0f}%" title="{title}">{text}</td>'
