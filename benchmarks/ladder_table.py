"""The rows of a ladder as a table, and the table in its place in the documentation."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.table import format_spread, format_table
from benchmarks.timing import summarize
from train.runtime import write_text

Row = Mapping[str, Any]
ABSENT = "–"


def table(rows: Sequence[Row], scores: Mapping[str, str]) -> str:
    """A Markdown table, best first by the first of `scores` (heading -> name); what failed comes last, with the reason
    below the table. Where systems see images of different sizes, these have a column."""
    sizes = len({size(row) for row in rows} - {ABSENT}) > 1
    header = (
        "system", *scores, *(["image"] if sizes else []), "parameters", "GFLOPs, inference", "GFLOPs, training",
        "inference", "in batches", "training", "MiB, inference", "MiB, training", "trained in",
    )  # fmt: skip
    first = next(iter(scores.values()))
    ordered = sorted(rows, key=lambda row: -_number(score(row, first), -math.inf))
    lines = [format_table(header, [_cells(row, scores, sizes=sizes) for row in ordered])]
    return "\n\n".join([*lines, *failures(rows)])


def failures(rows: Sequence[Row]) -> list[str]:
    """A paragraph with the reason of each failure, where there is one."""
    lines = [f"- {row['name']} failed: {row['failed']}" for row in rows if "failed" in row]
    return ["\n".join(lines)] if lines else []


def score(row: Row, name: str) -> float | None:
    """A score of the row, None where it has none."""
    return row.get("scores", {}).get(name)


def milliseconds(row: Row, program: str) -> list[float]:
    """The samples of a program, each as milliseconds an image; empty where it was not timed."""
    facts = row.get(program, {})
    return [1e3 * seconds / facts["images"] for seconds in facts.get("seconds", ())]


def size(row: Row) -> str:
    """Height and width of the images that the row's programs were timed on."""
    facts = row.get("inference", {})
    return f"{facts['height']}x{facts['width']}" if "height" in facts else ABSENT


def _cells(row: Row, scores: Mapping[str, str], *, sizes: bool) -> list[str]:
    seconds = row.get("trained", {}).get("seconds")
    return [
        row["name"],
        *(shown(score(row, name), "{:.3f}") for name in scores.values()),
        *([size(row)] if sizes else []),
        shown(row.get("parameters"), "{:.2f} M", 1e-6),
        *(shown(flops_an_image(row, program), "{:.3g}", 1e-9) for program in ("inference", "training")),
        *(spread(milliseconds(row, program)) for program in ("inference", "inference_in_batches", "training")),
        *(shown(row.get(program, {}).get("memory_mib"), "{:.1f}") for program in ("inference", "training")),
        shown(seconds, "{:.1f} min", 1 / 60),
    ]


def flops_an_image(row: Row, program: str) -> float | None:
    """Floating point operations of a program for each of its images, None where they were not counted."""
    facts = row.get(program, {})
    return facts["flops"] / facts["images"] if facts.get("flops") else None


def spread(samples: Sequence[float]) -> str:
    """Median and quartiles of milliseconds."""
    if not samples:
        return ABSENT
    return format_spread(summarize([ms / 1e3 for ms in samples]), seconds=True)


def shown(value: float | None, form: str, factor: float = 1.0) -> str:
    """The value times `factor`, a dash where there is none."""
    return ABSENT if value is None else form.format(value * factor)


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def write_between(page: pathlib.Path, name: str, text: str) -> None:
    """Puts `text` between the lines `<!-- NAME -->` and `<!-- end of NAME -->` of a page. `ValueError` without them."""
    before, after = around(page, name)
    write_text(page, f"{before}\n\n{text.strip()}\n\n{after}")


def around(page: pathlib.Path, name: str) -> tuple[str, str]:
    """What stands before and after the place that `write_between` fills, with the lines that mark it.

    Raises:
      ValueError: the page has not both lines, in this order.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page} has no place for the table: put the lines {begin} and {end} where it is to be.")
    return before + begin, end + after
