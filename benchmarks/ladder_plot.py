"""The plot of a ladder: accuracy against the time of inference."""

import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from benchmarks.ladder_table import Row, milliseconds, score
from benchmarks.timing import summarize

BLUE, GREY = "#0072b2", "#8a8a8a"
"""Of Okabe and Ito's palette. Systems are told apart by their labels, not by colour."""
AREA = 40.0
"""Square points of a marker of a million parameters; areas grow with the square root of the number."""
ANGLES = np.radians([0, 35, -35, 180, 145, -145, 90, -90, 60, -60, 120, -120])
REACHES = (0, 7, 16, 28, 42)
"""Where a label is tried about its marker: near before far, in points beyond the marker's edge."""


def plot(rows: Sequence[Row], path: pathlib.Path, *, title: str, heading: str, name: str) -> bool:
    """Draws the rows that have a score and a time into a PNG file. False, and no file, where none has both.

    Args:
      heading: what the score is called; `name`: where it stands in the rows.
    """
    shown = [row for row in rows if score(row, name) is not None and milliseconds(row, "inference")]
    if not shown:
        return False
    figure = Figure(figsize=(8.2, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    times = [summarize(milliseconds(row, "inference")) for row in shown]
    x, y = np.array([t.median for t in times]), np.array([score(row, name) for row in shown])
    sizes = [row.get("parameters") for row in shown]
    spread = np.array([[t.lower for t in times], [t.upper for t in times]])
    draw_front(axes, x, y)
    axes.hlines(y, *spread, color=GREY, linewidth=1, zorder=2)
    draw_markers(axes, x, y, sizes)
    frame(axes, x, y)
    axes.set(xlabel="inference, ms per image (one image at a time)", ylabel=heading)
    axes.set_title(title, loc="left", fontsize=11)
    legend(axes, sizes)
    place_labels(axes, x, y, spread, [area(size) for size in sizes], [row["name"] for row in shown])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return True


def area(parameters: float | None) -> float:
    """Square points of a marker; a model without learning has one of middling size."""
    return AREA * max(parameters or 1e5, 1e4) ** 0.5 / 1e3


def front(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Which points no other one beats, being quicker and at least as good; from the quickest on."""
    kept: list[int] = []
    for index in np.lexsort((-y, x)).tolist():
        if not kept or y[index] > y[kept[-1]]:
            kept.append(index)
    return kept


def draw_front(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """The best score that can be had in a given time, as a staircase."""
    best = front(x, y)
    style = {"color": GREY, "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 1}
    axes.plot(x[best], y[best], drawstyle="steps-post", label="best within a time", **style)


def draw_markers(axes: Axes, x: np.ndarray, y: np.ndarray, sizes: Sequence[int | None]) -> None:
    """A disc for each system, a ring for what has no parameters."""
    faces = [BLUE if size else "white" for size in sizes]
    edges = ["white" if size else BLUE for size in sizes]
    axes.scatter(x, y, s=[area(size) for size in sizes], c=faces, edgecolor=edges, linewidth=0.8, zorder=3)


def frame(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    """A logarithmic x axis with plain numbers, and room for labels about the points."""
    axes.set_xscale("log")
    axes.set_xlim(x.min() / 1.5, x.max() * 1.5)
    room = max(0.12 * np.ptp(y), 0.02)
    axes.set_ylim(y.min() - room, y.max() + room)
    plain_logarithms(axes, x.max() / x.min())


def plain_logarithms(axes: Axes, ratio: float) -> None:
    """Plain numbers on a logarithmic x axis, whose largest is `ratio` times its smallest, and a quiet grid."""
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if ratio > 5 else range(1, 10)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend(axes: Axes, sizes: Sequence[int | None]) -> None:
    """What the line and the markers' sizes mean, by powers of ten about the numbers of parameters there are."""
    if known := [size for size in sizes if size]:
        low, high = np.round(np.log10([min(known), max(known)])).astype(int)
        for exponent in range(low, high + 1):
            text = f"{10.0 ** (exponent - 6):g} M parameters"
            axes.scatter([], [], s=area(10.0**exponent), color=BLUE, label=text)
    if None in sizes:
        axes.scatter([], [], s=area(None), c="white", edgecolor=BLUE, linewidth=0.8, label="no parameters")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8, labelspacing=1.1)


def place_labels(
    axes: Axes, x: np.ndarray, y: np.ndarray, spread: np.ndarray, areas: Sequence[float], names: Sequence[str]
) -> list[Annotation]:
    """Writes each point's name where it covers no marker, line or other name, as near as it can be."""
    figure = axes.figure
    figure.draw_without_rendering()
    # From here on the axes keep their place: labels are put where pixels are free.
    figure.set_layout_engine("none")
    point = figure.dpi / 72
    pixels = axes.transData.transform
    centres, radii = pixels(np.column_stack([x, y])), np.sqrt(np.divide(areas, np.pi)) * point
    taken = [Bbox.from_bounds(*(c - r), 2 * r, 2 * r).padded(2.5 * point) for c, r in zip(centres, radii)]
    taken += [Bbox([pixels((low, at)), pixels((high, at))]).padded(point) for low, high, at in zip(*spread, y)]
    stairs = front(x, y)
    for here, there in itertools.pairwise(stairs):
        corners = [pixels(at) for at in ((x[here], y[here]), (x[there], y[here]), (x[there], y[there]))]
        taken += [Bbox([a, b]).padded(point) for a, b in itertools.pairwise(corners)]
    # The crowded ones choose first.
    gaps = np.linalg.norm(centres[:, None] - centres, axis=-1) + np.diag(np.full(len(x), np.inf))
    texts = []
    for index in np.argsort(gaps.min(1)).tolist():
        texts.append(place_label(axes, (x[index], y[index]), radii[index] / point, names[index], taken))
        taken.append(texts[-1].get_window_extent())
    return texts


def place_label(axes: Axes, at: tuple[float, float], radius: float, name: str, taken: Sequence[Bbox]) -> Annotation:
    """The label where it is free, or overlaps what is `taken` least; `radius` of its marker in points."""
    box, best = axes.get_window_extent(), None
    for reach in REACHES:
        for angle in ANGLES:
            text = _write(axes, at, name, radius + 3 + reach, angle, line=reach > REACHES[1])
            extent = text.get_window_extent()
            outside = extent.width * extent.height - _common(extent, box)
            cost = outside + sum(_common(extent, other) for other in taken)
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, text)
            else:
                text.remove()
            if best[0] == 0:
                return best[1]
    return best[1]


def _write(axes: Axes, at: tuple[float, float], name: str, distance: float, angle: float, *, line: bool) -> Annotation:
    right, up = np.cos(angle), np.sin(angle)
    sides = {-1: "right", 0: "center", 1: "left"}, {-1: "top", 0: "center", 1: "bottom"}
    ha, va = (side[int(np.sign(v)) if abs(v) > 0.3 else 0] for side, v in zip(sides, (right, up)))
    style: dict[str, Any] = {"arrowprops": {"arrowstyle": "-", "color": GREY, "linewidth": 0.6}} if line else {}
    return axes.annotate(
        name, at, (distance * right, distance * up), textcoords="offset points", ha=ha, va=va, fontsize=8.5,
        path_effects=[withStroke(linewidth=2.5, foreground="white")], **style,
    )  # fmt: skip


def _common(a: Bbox, b: Bbox) -> float:
    """Square pixels that two boxes share."""
    both = Bbox.intersection(a, b)
    return 0.0 if both is None else float(both.width * both.height)
