"""A classifier window by window against the same one over the whole image: what is measured of both, and shown."""

import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import CoresOfOthers, load_average
from benchmarks.table import format_spread, format_table
from benchmarks.timing import Run, interleave, ratios, summarize
from train.runtime import write_text

HEADER = ("stride", "windows", "by windows", "convolutional", "ratio", "by processor", "by operations", "others")


class Form(NamedTuple):
    """One of the two."""

    run: Run
    """Gives what is said of all windows, an array, and waits for it."""
    flops: float
    """Floating point operations of the network, by XLA."""


def measure_strides(
    strides: Sequence[int], measure: Callable[[int], dict[str, Any]], report: dict[str, Any], out: pathlib.Path | None
) -> None:
    """Adds the results of all strides to the report, printing and writing each as it comes."""
    for stride in strides:
        report["results"].append(measure(stride))
        print("  ".join(row(report["results"][-1])), flush=True)
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_text(out, json.dumps(report, indent=1) + "\n")


def compare(stride: int, count: int, windows: Form, convolutional: Form, *, repeats: int | None) -> dict[str, Any]:
    """Compares what both give, then times them: everything that is known of a stride, ready for JSON.

    Args:
      stride: pixels from window to window.
      count: windows of the image.
      windows, convolutional: both forms, compiled.
      repeats: samples of each; None takes one short one, which shows that everything runs.

    Raises:
      ValueError: their outputs differ.
    """
    load = load_average()
    expected, found = np.asarray(windows.run()), np.asarray(convolutional.run())
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not difference < 1e-4:
        raise ValueError(f"at stride {stride} outputs differ by {difference:.2g} of the largest; nothing was timed.")
    others, theirs, ours = CoresOfOthers(), Counted(windows.run), Counted(convolutional.run)
    at_least = 0.0 if repeats is None else 0.05
    timings = interleave(ours, theirs, repeats=repeats or 1, at_least=at_least, warm_up=1)
    return {
        "stride": stride,
        "windows": count,
        "load_average_before": load,
        "cores_of_others": others.average(),
        "largest_relative_difference": difference,
        "windows_gflops": windows.flops / 1e9,
        "convolutional_gflops": convolutional.flops / 1e9,
        "windows_seconds": timings.theirs,
        "convolutional_seconds": timings.ours,
        "ratios": ratios(timings),
        "windows_processor_seconds": theirs.average(),
        "convolutional_processor_seconds": ours.average(),
        "processor_ratio": theirs.average() / ours.average(),
    }


class Counted:
    """A run that adds up the processor time it takes, on all cores: what other programs do hardly changes it."""

    def __init__(self, run: Run) -> None:
        self.run, self.calls, self.seconds = run, 0, 0.0

    def __call__(self) -> Any:
        start = time.process_time()
        result = self.run()
        self.seconds, self.calls = self.seconds + time.process_time() - start, self.calls + 1
        return result

    def average(self) -> float:
        """Processor seconds a call."""
        return self.seconds / self.calls


def table(report: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    return format_table(HEADER, [row(result) for result in report["results"]])


def row(result: dict[str, Any]) -> list[str]:
    """A result as a line of the table."""
    return [
        str(result["stride"]),
        str(result["windows"]),
        format_spread(summarize(result["windows_seconds"]), seconds=True),
        format_spread(summarize(result["convolutional_seconds"]), seconds=True),
        format_spread(summarize(result["ratios"]), seconds=False),
        f"{result['processor_ratio']:.1f}",
        f"{result['windows_gflops'] / result['convolutional_gflops']:.1f}",
        "?" if result["cores_of_others"] is None else f"{result['cores_of_others']:.2f}",
    ]


def draw(report: dict[str, Any], path: pathlib.Path) -> None:
    """Times of both forms and their ratio against the number of windows, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    results = sorted(report["results"], key=lambda result: result["windows"])
    counts = [result["windows"] for result in results]
    figure, (times, ratio) = plt.subplots(1, 2, figsize=(9.0, 3.6), layout="constrained")
    for key, label, colour in (
        ("windows_seconds", "window by window", "#b2182b"),
        ("convolutional_seconds", "fully convolutional", "#2166ac"),
    ):
        middle, low, high = np.transpose([summarize(result[key]) for result in results])
        times.fill_between(counts, low, high, color=colour, alpha=0.2, linewidth=0)
        times.plot(counts, middle, "o-", color=colour, label=label)
    times.set_ylabel("seconds an image")
    times.legend(frameon=False)
    middle, low, high = np.transpose([summarize(result["ratios"]) for result in results])
    ratio.fill_between(counts, low, high, color="#444444", alpha=0.2, linewidth=0)
    ratio.plot(counts, middle, "o-", color="#444444", label="by the clock")
    ratio.plot(
        counts, [result["processor_ratio"] for result in results], "s:", color="#1b7837", label="by processor time"
    )
    operations = [result["windows_gflops"] / result["convolutional_gflops"] for result in results]
    ratio.plot(counts, operations, "--", color="#999999", label="by operations")
    ratio.set_ylabel("times as fast")
    ratio.legend(frameon=False)
    for axes in (times, ratio):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(counts, [f"{n}\nstride {r['stride']}" for n, r in zip(counts, results)], fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel("windows")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
