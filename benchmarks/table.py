"""Results as lines of text."""

from collections.abc import Sequence

from benchmarks.timing import Summary


def format_seconds(seconds: float) -> str:
    """Three significant figures with the unit that suits: us, ms or s."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        value = seconds * factor
        if value >= 1 or unit == "us":
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    raise AssertionError("the last unit takes every value")


def format_spread(summary: Summary, *, seconds: bool) -> str:
    """Median, and the quartiles in brackets."""
    show = format_seconds if seconds else "{:.2f}".format
    return f"{show(summary.median)} [{show(summary.lower)}, {show(summary.upper)}]"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns line up: the first to the left, the others to the right.

    Raises:
      ValueError: a row has not as many cells as the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells under a header of {len(header)}: {list(row)}.")
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    rule = [f":{'-' * (w - 1)}" if i == 0 else f"{'-' * (w - 1)}:" for i, w in enumerate(widths)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths))]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(header), line(rule), *map(line, rows)])
