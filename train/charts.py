"""Line charts as inline SVG that follows the page's light or dark colours, with no script and no font of its own."""

import dataclasses
import html
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

WIDTH, HEIGHT = 540, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 12, 40
COLOURS = 10
"""Number of line colours that the page's style defines, `--line-0` on."""
POINTS = 400
"""Longer lines are averaged over equal windows down to this many points: more are not seen, and the page grows."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart. Points that are not finite are left out."""

    name: str
    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    bold: bool = False


@dataclasses.dataclass(frozen=True)
class Chart:
    """A line chart with its title and legend: a block of a report.

    A linear y axis starts at 0 where no value is below it, so that a change looks as large as it is.
    """

    title: str
    lines: Sequence[Line]
    x_label: str
    y_label: str = ""
    x_range: tuple[float, float] | None = None
    """Ends of the axis; those of the data where None."""
    y_range: tuple[float, float] | None = None
    log_y: bool = False
    """Logarithmic y axis; points at or below 0 are left out."""

    def html(self) -> str:
        """The chart as a figure element; one sentence in its place where there is nothing to draw."""
        drawn = [(line, *thin(line.x, line.y, positive=self.log_y)) for line in self.lines]
        drawn = [(line, x, y) for line, x, y in drawn if len(x)]
        caption = f"<figcaption>{html.escape(self.title)}</figcaption>"
        if not drawn:
            return f'<figure class="chart">{caption}<p class="note">Nothing recorded.</p></figure>'
        x_axis = _Axis.of(np.concatenate([x for _, x, _ in drawn]), self.x_range, log=False)
        y_axis = _Axis.of(np.concatenate([y for _, _, y in drawn]), self.y_range, log=self.log_y, rounded=True)
        body = _grid(x_axis, y_axis, self.x_label, self.y_label)
        body += [_polyline(line, x_axis.place(x), y_axis.place(y), i) for i, (line, x, y) in enumerate(drawn)]
        svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(self.title)}">'
        return f'<figure class="chart">{caption}{svg}{"".join(body)}</svg>{_legend([row[0] for row in drawn])}</figure>'


def thin(x: Sequence[float], y: Sequence[float], *, positive: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The finite points of a line, above 0 if `positive`; over `POINTS` of them become means over equal windows."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    kept = np.isfinite(x) & np.isfinite(y) & ((y > 0) | (not positive))
    x, y = x[kept], y[kept]
    if len(x) <= POINTS:
        return x, y
    edges = np.linspace(0, len(x), POINTS + 1).astype(int)[:-1]
    counts = np.diff(edges, append=len(x))
    return np.add.reduceat(x, edges) / counts, np.add.reduceat(y, edges) / counts


@dataclasses.dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool

    @classmethod
    def of(cls, values: np.ndarray, ends: tuple[float, float] | None, *, log: bool, rounded: bool = False) -> "_Axis":
        """An axis over `values`, or between `ends`; `rounded` extends it to 0 and to the next tick if it is linear."""
        low, high = ends or (float(values.min()), float(values.max()))
        rounded = rounded and not log and ends is None
        low = min(low, 0.0) if rounded else low
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
        if log:
            narrow = high / low < 1000
            locator = LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,), numticks=8)
        else:
            locator = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10])
        ticks = tuple(float(tick) for tick in locator.tick_values(low, high))
        if rounded:
            low, high = min(low, ticks[0]), max(high, ticks[-1])
        return cls(low, high, tuple(tick for tick in ticks if low <= tick <= high), log)

    def place(self, values: np.ndarray | float) -> np.ndarray:
        """Where `values` lie on the axis, 0 at its low end and 1 at its high end."""
        values, low, high = np.asarray(values, float), self.low, self.high
        if self.log:
            values, low, high = np.log(values), math.log(low), math.log(high)
        return (values - low) / (high - low)


def _x(place: np.ndarray | float) -> np.ndarray:
    return LEFT + np.asarray(place) * (WIDTH - LEFT - RIGHT)


def _y(place: np.ndarray | float) -> np.ndarray:
    return HEIGHT - BOTTOM - np.asarray(place) * (HEIGHT - TOP - BOTTOM)


def _grid(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> list[str]:
    parts = []
    for tick in x_axis.ticks:
        x = float(_x(x_axis.place(tick)))
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_number(tick)}</text>')
    for tick in y_axis.ticks:
        y = float(_y(y_axis.place(tick)))
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    height = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="rotate(-90 12 {height:.0f})"'
    parts.append(f'<text x="12" y="{height:.0f}" text-anchor="middle" {turned}>{html.escape(y_label)}</text>')
    return parts


def _polyline(line: Line, x: np.ndarray, y: np.ndarray, index: int) -> str:
    points = [f"{px:.1f},{py:.1f}" for px, py in zip(_x(x), _y(y))]
    style = f'class="line{" bold" if line.bold else ""}" stroke="var(--line-{index % COLOURS})"'
    dots = ""
    if len(points) <= 30:  # few points: show where they are, and a single one at all
        pairs = (point.split(",") for point in points)
        dots = "".join(f'<circle cx="{a}" cy="{b}" r="2.5" fill="var(--line-{index % COLOURS})"/>' for a, b in pairs)
    title = f"<title>{html.escape(line.name)}</title>"
    return f'<g>{title}<polyline {style} points="{" ".join(points)}"/>{dots}</g>'


def _legend(lines: Sequence[Line]) -> str:
    if len(lines) < 2:
        return ""
    swatch = '<li><span class="swatch" style="background: var(--line-{})"></span>{}</li>'
    items = (swatch.format(i % COLOURS, html.escape(line.name)) for i, line in enumerate(lines))
    return f'<ul class="legend">{"".join(items)}</ul>'


def _number(value: float) -> str:
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:,.10g}" if abs(value) >= 1000 else f"{value:.4g}"
