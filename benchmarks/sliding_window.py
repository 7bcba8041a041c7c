"""A patch classifier window by window against the same network made fully convolutional: what sharing features saves.

    python -m benchmarks.sliding_window [--strides 16 8 4 2 1] [--repeats 5] [--out benchmarks/results/NAME.json]
        [--plot docs/sliding_window.png] [--quick]

The network is that of the recipe sliding_window_scenes, the image one scene's size, the parameters random: speed does
not depend on them. Both forms are two programs of one model (`segjax.models.sliding_window`), compiled before they are
timed; their outputs are compared first. Samples are interleaved; the ratio is the windows' time over the convolutional
one's. `--plot` draws what `--out` holds. See docs/sliding_window.md.
"""

import dataclasses
import json
import pathlib
import sys
import time
from typing import Any

import numpy as np
import tyro

from benchmarks.machine import CoresOfOthers, command_line, describe_machine, load_average
from benchmarks.table import format_spread, format_table
from benchmarks.timing import Run, interleave, ratios, summarize

HEADER = ("stride", "windows", "by windows", "convolutional", "ratio", "by processor", "by operations", "others")
CLASSES = 9
"""Of scenes, the background among them."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares two ways to run a patch classifier over an image."""

    strides: tuple[int, ...] = (16, 8, 4, 2, 1)
    """Pixels between windows."""
    size: tuple[int, int] = (128, 160)
    """(height, width) of the image in pixels."""
    repeats: int = 5
    """Samples of each form and stride."""
    out: pathlib.Path | None = None
    """JSON file for the results."""
    plot: pathlib.Path | None = None
    """Picture to draw of the results; without anything measured anew where `--strides` is empty."""
    quick: bool = False
    """A small image and one repeat: shows that everything runs, says nothing about speed."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the comparison; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, args=arguments)
    if options.repeats < 1 or any(stride < 1 for stride in options.strides):
        raise SystemExit(f"--repeats and --strides must be at least 1, got {options.repeats} and {options.strides}.")
    if options.strides:
        report = {"command": command_line("benchmarks.sliding_window", arguments), "machine": describe_machine()}
        report |= {"size": options.size, "results": []}
        for stride in options.strides:
            report["results"].append(measure(stride, options))
            print("  ".join(row(report["results"][-1])), flush=True)
            if options.out is not None:
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(report, indent=1) + "\n")
    elif options.out is not None:
        report = json.loads(options.out.read_text())
    else:
        raise SystemExit("--strides is empty: nothing is measured; name with --out the results to draw.")
    print(f"\n{format_table(HEADER, [row(result) for result in report['results']])}")
    if options.plot is not None:
        draw(report, options.plot)
    return 0


def measure(stride: int, options: Options) -> dict[str, Any]:
    """Builds both forms, compares their outputs, times them: everything that is known of a stride, ready for JSON."""
    size = (40, 48) if options.quick else options.size
    load = load_average()
    (windows, flops_of_windows), (convolutional, flops) = (
        program(form, stride, size) for form in ("windows", "convolutional")
    )
    expected, found = np.asarray(windows()), np.asarray(convolutional())
    difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    if not difference < 1e-4:
        raise ValueError(f"at stride {stride} outputs differ by {difference:.2g} of the largest; nothing was timed.")
    others, (convolutional, windows) = CoresOfOthers(), (Counted(convolutional), Counted(windows))
    repeats, at_least = (1, 0.0) if options.quick else (options.repeats, 0.05)
    timings = interleave(convolutional, windows, repeats=repeats, at_least=at_least, warm_up=1)
    return {
        "stride": stride,
        "windows": -(-size[0] // stride) * -(-size[1] // stride),
        "load_average_before": load,
        "cores_of_others": others.average(),
        "largest_relative_difference": difference,
        "windows_gflops": flops_of_windows / 1e9,
        "convolutional_gflops": flops / 1e9,
        "windows_seconds": timings.theirs,
        "convolutional_seconds": timings.ours,
        "ratios": ratios(timings),
        "windows_processor_seconds": windows.average(),
        "convolutional_processor_seconds": convolutional.average(),
        "processor_ratio": windows.average() / convolutional.average(),
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


def program(form: str, stride: int, size: tuple[int, int]):
    """(a call that labels the image and waits, floating point operations of the network by XLA) of one form."""
    import jax
    import jax.numpy as jnp

    from configs.sliding_window_scenes import RECIPE
    from segjax.models.sliding_window import window_count

    system = dataclasses.replace(RECIPE.model, inference=form, stride=stride)
    network = system.network(CLASSES)
    parameters = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, network.patch, network.patch, 3)))
    variables = {"params": {"patch": parameters["params"]}}
    image = jax.random.uniform(jax.random.key(1), (1, *size, 3))
    compiled = jax.jit(lambda *args: system.build(CLASSES).predict(*args).logits)
    compiled = compiled.lower(variables, image, jnp.array([size])).compile()
    if form == "windows":
        # XLA counts the body of a loop once, and here it would be that of a chunk.
        one = jax.jit(network.apply).lower(parameters, jnp.zeros((1, network.patch, network.patch, 3))).compile()
        flops = one.cost_analysis()["flops"] * window_count(size[0], stride) * window_count(size[1], stride)
    else:
        flops = compiled.cost_analysis()["flops"]
    return lambda: jax.block_until_ready(compiled(variables, image, jnp.array([size]))), float(flops)


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


if __name__ == "__main__":
    sys.exit(main())
