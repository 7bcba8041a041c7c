"""segjax against torchvision: the same work on the same numbers in one process, as ratios.

    python -m benchmarks.peers [--cases nms train] [--repeats 9] [--out benchmarks/results/NAME.json] [--quick]

Results are compared before anything is timed. Both libraries use as many threads as this process may use cores
(`taskset -c 0,1 python -m ...` for two), the samples of both are interleaved, compilation and warm-up are not in them.
The ratio is torchvision's time over segjax's: above 1, segjax is faster. See docs/benchmarks.md.
"""

import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import tyro

from benchmarks.machine import CoresOfOthers, command_line, describe_machine, load_average, peak_mib, usable_cores
from benchmarks.table import format_seconds, format_spread, format_table
from benchmarks.timing import interleave, ratios, summarize

HEADER = ("case", "segjax", "torchvision", "ratio", "compile", "load", "others")


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares segjax with torchvision in speed."""

    cases: tuple[str, ...] = ()
    """Only the cases whose names contain one of these; all without."""
    repeats: int = 9
    """Samples of each library per case."""
    out: pathlib.Path | None = None
    """JSON file for the results."""
    quick: bool = False
    """Small sizes and three repeats: shows that everything runs, says nothing about speed."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the comparison; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, args=arguments)
    if options.repeats < 1:
        raise SystemExit(f"--repeats must be at least 1, got {options.repeats}.")
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchvision") is None:
        print("torch and torchvision are not installed here; `make parity` installs them into .venv.", file=sys.stderr)
        return 1
    # Before JAX starts: else it takes most of a GPU's memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    results: list[dict[str, Any]] = []
    about = {"command": command_line("benchmarks.peers", arguments), "machine": describe_machine()}
    for result in run_cases(options):
        results.append(result)
        print("  ".join(row(result)), flush=True)
        if options.out is not None:
            # After every case, so that a run that is cut short keeps what it has.
            write(options.out, about | {"device": device_name(), "results": results})
    print(f"\n{format_table(HEADER, [row(result) for result in results])}")
    return 0


def write(path: pathlib.Path, report: dict[str, Any]) -> None:
    """`report` as JSON, its folder made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def choose(options: Options) -> list[Any]:
    """The cases asked for. `SystemExit` for a name that fits none."""
    from benchmarks.detector_cases import detector_cases
    from benchmarks.head_ops_cases import head_ops_cases
    from benchmarks.ops_cases import ops_cases
    from benchmarks.segmenter_cases import segmenter_cases

    cases = [*ops_cases(), *head_ops_cases(), *detector_cases(), *segmenter_cases()]
    for part in options.cases:
        if not any(part in case.name for case in cases):
            raise SystemExit(f"no case has {part!r} in its name; there are {', '.join(c.name for c in cases)}.")
    return [c for c in cases if not options.cases or any(part in c.name for part in options.cases)]


def run_cases(options: Options) -> Iterator[dict[str, Any]]:
    """One result per case and precision, each as soon as it is measured."""
    import torch

    torch.set_num_threads(usable_cores())
    for case in choose(options):
        for setting in settings(neural=case.neural):
            yield measure(case, setting, options)


def settings(*, neural: bool) -> list[Any]:
    """float32 on a CPU; on a GPU that both libraries see TF32 and bfloat16, the latter only where it matters."""
    import jax
    import torch

    from benchmarks.cases import Setting

    if jax.default_backend() == "gpu" and torch.cuda.is_available():
        return [Setting("cuda", precision) for precision in (("tf32", "bfloat16") if neural else ("float32",))]
    if jax.default_backend() != "cpu":
        raise SystemExit(f"JAX runs on {jax.default_backend()}, torch cannot: set JAX_PLATFORMS=cpu to compare on CPU.")
    return [Setting("cpu", "float32")]


def device_name() -> str:
    """The accelerator's name, or "cpu"."""
    import jax

    return jax.devices()[0].device_kind


def measure(case: Any, setting: Any, options: Options) -> dict[str, Any]:
    """Builds, compares and times one case: everything that is known of it, ready for JSON."""
    from benchmarks.cases import tf32

    load = load_average()
    with tf32(setting.precision == "tf32"):
        work = case.build(setting, options.quick)
        repeats, at_least = (3, 0.0) if options.quick else (options.repeats, 0.05)
        others = CoresOfOthers()
        timings = interleave(work.ours, work.theirs, repeats=repeats, at_least=at_least)
        busy = others.average()
        # After the timing: both are warm, and the first calls' own allocations are behind them.
        measured = case.neural and setting.device == "cpu"
        peaks = {
            name: peak_mib(run) if measured else None for name, run in (("ours", work.ours), ("theirs", work.theirs))
        }
    return {
        "case": case.name,
        "device": setting.device,
        "precision": setting.precision,
        "load_average_before": load,
        "cores_of_others": busy,
        "compile_seconds": round(work.compile_seconds, 2),
        "temporary_mib": work.temporary_mib if math.isfinite(work.temporary_mib) else None,
        "segjax_peak_mib": peaks["ours"],
        "torchvision_peak_mib": peaks["theirs"],
        "differences": dict(work.differences),
        "facts": dict(work.facts),
        "segjax_seconds": timings.ours,
        "torchvision_seconds": timings.theirs,
        "ratios": ratios(timings),
    }


def row(result: dict[str, Any]) -> list[str]:
    """A result as a line of the table."""
    name = result["case"] if result["precision"] == "float32" else f"{result['case']} {result['precision']}"
    return [
        name,
        format_spread(summarize(result["segjax_seconds"]), seconds=True),
        format_spread(summarize(result["torchvision_seconds"]), seconds=True),
        format_spread(summarize(result["ratios"]), seconds=False),
        format_seconds(result["compile_seconds"]),
        f"{result['load_average_before']:.2f}",
        "?" if result["cores_of_others"] is None else f"{result['cores_of_others']:.2f}",
    ]


if __name__ == "__main__":
    sys.exit(main())
