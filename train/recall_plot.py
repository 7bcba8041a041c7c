"""The picture of what proposals cover: recall against IoU and against the number of proposals."""

import pathlib
from collections.abc import Callable, Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from segjax.evaluation.recall import Coverage

SHOWN = (10, 100, 300, 1000, 2000)
"""Numbers of proposals of which a line and a column of the tables are."""
IOUS = np.linspace(0.5, 1, 101)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of Okabe and Ito's palette, one for each file."""
CURVES: dict[str, Callable[[Coverage], np.ndarray]] = {
    "recall at IoU 0.5": lambda found: found.recall(0.5),
    "recall at IoU 0.7": lambda found: found.recall(0.7),
    "average recall, IoU 0.5 to 1": Coverage.average_recall,
}
"""What is drawn against the number of proposals."""


def plot_recall(found: Mapping[str, Coverage], path: pathlib.Path, *, title: str) -> None:
    """Draws proposals of one data set into a PNG file.

    For each entry a panel of recall against IoU, with a line for each of `SHOWN`; then all of them against the number
    of proposals: recall at IoU 0.5 and 0.7, average recall.

    Args:
        found: what each file covers, by the name it is shown under, measured at `SHOWN` among others.
    """
    columns = 2 if len(found) == 1 else 3
    rows = -(-(len(found) + len(CURVES)) // columns)
    figure = Figure(figsize=(4.0 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes, (name, coverage) in zip(panels, found.items()):
        against_iou(axes, coverage)
        axes.set_title(name, loc="left", fontsize=10)
    for axes, (what, curve) in zip(panels[len(found) :], CURVES.items()):
        for i, (name, coverage) in enumerate(found.items()):
            counts, values = until_all(coverage, curve(coverage))
            axes.plot(counts, values, color=COLOURS[i % len(COLOURS)], label=name, linewidth=1.8)
        frame_counts(axes)
        axes.set_title(what, loc="left", fontsize=10)
    if len(found) > 1:
        panels[len(found)].legend(frameon=False, fontsize=8, loc="best")
    for axes in panels[len(found) + len(CURVES) :]:
        axes.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def against_iou(axes: Axes, coverage: Coverage) -> None:
    """Recall against IoU with a line for each number of proposals that some image has, darker with more of them."""
    counts = counts_shown(coverage)
    shades = matplotlib.colormaps["viridis"](np.linspace(0.85, 0, len(counts)))
    recall = np.array([coverage.recall(float(iou)) for iou in IOUS])
    for count, shade in zip(counts, shades):
        axes.plot(IOUS, recall[:, coverage.at(count)], color=shade, label=f"{count}", linewidth=1.6)
    axes.set(xlabel="IoU", ylabel="recall", xlim=(0.5, 1), ylim=(0, 1.02))
    axes.legend(title="proposals an image", title_fontsize=8, frameon=False, fontsize=8, loc="best")
    _plain(axes)


def counts_shown(coverage: Coverage) -> list[int]:
    """Those of `SHOWN` up to the first that no image has more proposals than."""
    most = int(coverage.proposals.max(initial=1))
    return [count for i, count in enumerate(SHOWN) if i == 0 or SHOWN[i - 1] < most]


def until_all(coverage: Coverage, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve over the numbers of proposals, up to the number of the image that has most."""
    counts = np.array(coverage.counts)
    most = max(int(coverage.proposals.max(initial=1)), 1)
    # Beyond the last measured number below `most`, more proposals are reached at the next one measured.
    inside = int(np.searchsorted(counts, most)) + 1
    return np.minimum(counts[:inside], most), values[:inside]


def frame_counts(axes: Axes) -> None:
    """A logarithmic x axis of numbers of proposals."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="proposals an image, at most", ylabel="recall", ylim=(0, 1.02))
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
