"""A run on one page: `report.html`, self-contained, built of sections that any task can add to.

A section is a title and blocks; a block is anything with `html() -> str`. The blocks here are tables, facts, pictures,
preformatted text, and the charts of `train.charts`. Sections of one task are made in a file of that task
(`train.report_detection`) and handed to `write_report`, which knows only what every run has: metrics, config, data
problems.
"""

import dataclasses
import html
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segjax.data.source import Problems
from segjax.visualize import data_uri
from train.charts import Chart, Line

STYLE = pathlib.Path(__file__).with_name("report.css")
PICTURE_WIDTH = 1200
"""Pictures wider than this many pixels are made smaller: the page shows them at half of it."""


class Block(Protocol):
    """A part of a section."""

    def html(self) -> str:
        """The block as HTML that refers to nothing outside the page."""
        ...


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under a header. Numbers are right-aligned with three decimals, NaN is a dash; text is left-aligned."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def html(self) -> str:
        """The table, in a box that scrolls where the table is wider than the page."""
        first = self.rows[0] if self.rows else [""] * len(self.header)
        head = "".join(f"<th{_side(v)}>{html.escape(name)}</th>" for name, v in zip(self.header, first))
        body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in self.rows)
        return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


@dataclasses.dataclass(frozen=True)
class Facts:
    """A few values that are to be seen first, each with its name."""

    values: Mapping[str, Any]

    def html(self) -> str:
        """One tile a value."""
        tiles = (
            f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(shown(v))}</dd></div>" for k, v in self.values.items()
        )
        return f'<dl class="facts">{"".join(tiles)}</dl>'


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image with a caption."""

    image: UInt8[np.ndarray, "h w 3"]
    caption: str


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Images in a grid, stored in the page itself."""

    pictures: Sequence[Picture]

    def html(self) -> str:
        """One figure a picture."""
        figures = (
            f'<figure><img src="{_data_uri(p.image)}" alt="{html.escape(p.caption)}">'
            f"<figcaption>{html.escape(p.caption)}</figcaption></figure>"
            for p in self.pictures
        )
        return f'<div class="pictures">{"".join(figures)}</div>'


@dataclasses.dataclass(frozen=True)
class Rows:
    """Wide images, each in a row of its own."""

    pictures: Sequence[Picture]

    def html(self) -> str:
        """One figure a row."""
        return f'<div class="rows">{Pictures(self.pictures).html()}</div>'


@dataclasses.dataclass(frozen=True)
class Charts:
    """Charts in a grid."""

    charts: Sequence[Chart]

    def html(self) -> str:
        """The charts, two beside each other where the page is wide enough."""
        return f'<div class="charts">{"".join(chart.html() for chart in self.charts)}</div>'


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str

    def html(self) -> str:
        """The paragraph."""
        return f"<p>{html.escape(self.text)}</p>"


@dataclasses.dataclass(frozen=True)
class Code:
    """Preformatted text, folded behind its title."""

    title: str
    text: str

    def html(self) -> str:
        """The text, closed at first."""
        return f"<details><summary>{html.escape(self.title)}</summary><pre>{html.escape(self.text)}</pre></details>"


@dataclasses.dataclass(frozen=True)
class Section:
    """A titled part of a report."""

    title: str
    blocks: Sequence[Block]


def render(title: str, sections: Sequence[Section]) -> str:
    """The page: a title, links to the sections, and the sections in order."""
    anchors = [re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") for section in sections]
    links = "".join(f'<a href="#{a}">{html.escape(s.title)}</a>' for a, s in zip(anchors, sections))
    body = "".join(
        f'<section id="{anchor}"><h2>{html.escape(s.title)}</h2>{"".join(block.html() for block in s.blocks)}</section>'
        for anchor, s in zip(anchors, sections)
    )
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>{html.escape(title)}</title>'
        f"<style>{STYLE.read_text()}</style></head><body><h1>{html.escape(title)}</h1><nav>{links}</nav>{body}</body></html>"
    )


def write_report(
    run_folder: pathlib.Path | str,
    *,
    name: str,
    facts: Mapping[str, Any],
    sections: Sequence[Section],
    pictures: Sequence[Section] = (),
    scores: Sequence[str] | None = None,
    others: Sequence[str] = (),
    problems: Problems | None = None,
) -> pathlib.Path:
    """Writes `report.html` into a run folder and returns its path.

    The page shows, in this order: `facts`, the task's `sections`, the curves of `metrics.jsonl`, `pictures`, the faults
    of the data, and `config.json`. A file that is not there leaves its part out, so that any run can be reported.

    Args:
        run_folder: Holds `metrics.jsonl` (one JSON object a line, each with "step") and `config.json`.
        name: Heading of the page: the recipe's name.
        facts: What is to be seen first, by the names it is shown under: the main scores, time, speed, memory, devices.
        sections: What the task has to show in numbers, e.g. those of `train.report_detection`.
        pictures: What it has to show in pictures.
        scores: Names of the scores to draw over training; None draws all that are over all classes.
        others: Names of scores with a scale of their own, to draw over training in a chart each.
        problems: Faults of the data, summed up by kind.
    """
    folder = pathlib.Path(run_folder)
    page = [Section("Overview", [Facts(facts)]), *sections]
    page += [*training_sections(read_metrics(folder / "metrics.jsonl"), scores=scores, others=others)]
    page += pictures
    if problems is not None:
        page.append(problems_section(problems))
    config = read_config(folder)
    if config:
        page.append(Section("Config", [Code("config.json", json.dumps(config, indent=2))]))
    path = folder / "report.html"
    path.write_text(render(name, page), encoding="utf-8")
    return path


def read_config(run_folder: pathlib.Path) -> dict[str, Any]:
    """The content of `config.json`, empty where there is none."""
    path = run_folder / "config.json"
    return json.loads(path.read_text()) if path.exists() else {}


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
    """The rows of a `metrics.jsonl`, by step. Empty where there is no file.

    A run that was killed can leave half a line at the end, and one that was resumed repeats steps: the half line is
    left out, and of repeated rows the later values stand.
    """
    rows: dict[int, dict[str, float]] = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                continue
            raise ValueError(f"{path}, line {number} is not JSON ({error.msg}); remove the line") from error
        rows.setdefault(row["step"], {}).update(row)
    return [rows[step] for step in sorted(rows)]


def training_sections(
    rows: Sequence[Mapping[str, float]], *, scores: Sequence[str] | None = None, others: Sequence[str] = ()
) -> list[Section]:
    """Charts of what a run logged: losses by term, scores over training, learning rate, speed. None without rows.

    Args:
        rows: From `read_metrics`: "loss", "loss/<term>", "lr", "images_per_second", "eval/<score>" by step.
        scores: The scores to draw; None draws all but those of single classes.
        others: Scores with a scale of their own, a chart each.
    """
    if not rows:
        return []
    logged = dict.fromkeys(key for row in rows for key in row)
    if scores is None:
        names = [key.removeprefix("eval/") for key in logged if key.startswith("eval/") and key.count("/") == 1]
        scores = [name for name in names if name != "images_per_second"]
    lines = [
        _line(rows, f"eval/{name}", name, bold=i == 0) for i, name in enumerate(scores) if f"eval/{name}" in logged
    ]
    steps = (0.0, float(rows[-1]["step"]))
    charts = [
        _loss_chart(rows, [key for key in logged if key.startswith("loss/")], steps),
        Chart("Scores on held-out images", lines, "step", x_range=steps, y_range=(0.0, 1.0)) if lines else None,
        *(
            Chart(name, [_line(rows, f"eval/{name}", name)], "step", x_range=steps)
            for name in others
            if f"eval/{name}" in logged
        ),
        Chart("Learning rate", [_line(rows, "lr", "learning rate")], "step", x_range=steps),
        Chart("Images a second", [_line(rows, "images_per_second", "images a second")], "step", x_range=steps),
    ]
    return [Section("Training", [Charts([chart for chart in charts if chart])])]


def _loss_chart(rows: Sequence[Mapping[str, float]], terms: Sequence[str], steps: tuple[float, float]) -> Chart:
    lines = [_line(rows, "loss", "total", bold=True), *(_line(rows, key, key.removeprefix("loss/")) for key in terms)]
    values = np.concatenate([np.asarray(line.y, float) for line in lines])
    values = values[np.isfinite(values) & (values > 0)]
    # From 20 to 1 on, the small terms lie on the bottom of a linear axis.
    log = bool(values.size) and values.max() / values.min() > 20
    return Chart("Loss (logarithmic)" if log else "Loss", lines, "step", x_range=steps, log_y=log)


def problems_section(problems: Problems) -> Section:
    """The faults of a data set by kind, with where the first three of each kind are."""
    if not len(problems):
        return Section("Data problems", [Text("None found.")])
    rows = []
    for kind, count in problems.counts().items():
        found = [p for p in problems if f"{p.kind} ({p.action})" == kind]
        rows.append((kind, count, "; ".join(p.detail for p in found[:3]) + ("; ..." if count > 3 else "")))
    return Section("Data problems", [Table(("Problem (what was done)", "Count", "First of them"), rows)])


def shown(value: Any) -> str:
    """A value as the page shows it: floats with three decimals, or three digits from 100 on, and NaN as a dash."""
    if isinstance(value, (float, np.floating)):
        if np.isnan(value):
            return "–"
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else str(value)


def _line(rows: Sequence[Mapping[str, float]], key: str, name: str, *, bold: bool = False) -> Line:
    found = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), (int, float))]
    return Line(name, [step for step, _ in found], [value for _, value in found], bold)


def _side(value: Any) -> str:
    return ' class="text"' if isinstance(value, str) else ""


def _cell(value: Any) -> str:
    return f"<td{_side(value)}>{html.escape(shown(value))}</td>"


def _data_uri(image: UInt8[np.ndarray, "h w 3"]) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH))
    return data_uri(np.asarray(picture), quality=88)
