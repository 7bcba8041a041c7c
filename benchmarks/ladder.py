"""The systems for one task against each other: trained on the same images, scored, counted and timed.

    python -m benchmarks.ladder semantic [--only NAME ...] [--repeats 9] [--runs runs] [--no-train]

Each recipe is trained by `python -m train`, a process each, unless it is trained already, and scored by
`python -m train.evaluate`. Then all of them are timed in one process, in turn. Results go to benchmarks/results, table
and plot to docs/ladder.md. The same command continues one that was stopped. See docs/ladder.md.
"""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import tyro

from benchmarks import ladder_regions
from benchmarks.ladder_plot import plot
from benchmarks.ladder_programs import Program, System, load_system, time_in_turn
from benchmarks.ladder_table import around, table, write_between
from benchmarks.ladder_training import describe_training, staged, trained
from benchmarks.machine import ROOT, CoresOfOthers, command_line, describe_machine
from configs import CONFIGS
from configs.base import Recipe
from train.__main__ import runs_of
from train.recipes import check_same, load_run, recipe_of
from train.runtime import one_sentence, say, write_text
from train.stages import Stages


class View(NamedTuple):
    """What a ladder shows of its systems."""

    table: Callable[..., str] = table
    """(rows, scores) -> Markdown."""
    plot: Callable[..., bool] = plot
    """(rows, path, title=, heading=, name=) -> whether there was something to draw."""
    describe: Callable[[Recipe], dict[str, Any]] = lambda recipe: {}
    """What else a row has to say of a trained recipe."""
    programs: Callable[[Recipe], dict[str, Program]] = lambda recipe: {}
    """What else is timed."""


class Ladder(NamedTuple):
    """Systems for one task."""

    title: str
    recipes: tuple[str, ...]
    """Names in `configs.CONFIGS`, or Python files with a RECIPE."""
    scores: Mapping[str, str]
    """Heading -> name in results_val.json. The first is what the plot shows."""
    same_sizes: bool = True
    """Whether all must bring images to the same sizes; some detectors are made for one size alone."""
    view: View = View()
    page: str = "ladder.md"
    """What it is documented on, in docs."""


LADDERS = {
    "semantic": Ladder(
        "Semantic segmentation of the scenes",
        (
            "sliding_window_scenes",
            "multi_scale_scenes",
            "refinement_scenes",
            "hypercolumns_scenes",
            "fcn_scenes",
            "segnet_scenes",
            "unet_scenes",
            "deeplabv3_scenes",
            "lraspp_scenes",
        ),
        {"mIoU": "mIoU", "boundary F": "boundary_F"},
    ),
    "detection": Ladder(
        "Detection on the scenes",
        (
            "faster_rcnn_scenes",
            "yolo_v1_scenes",
            "ssd_scenes",
            "retinanet_scenes",
            "fcos_scenes",
            "gridnet_scenes",
        ),
        {"AP": "AP", "AP50": "AP50"},
        same_sizes=False,
    ),
    "regions": Ladder(
        "From sliding windows to Faster R-CNN, on the scenes",
        (
            "overfeat_scenes",
            "rcnn_scenes",
            "sppnet_scenes",
            "fast_rcnn_scenes",
            "faster_rcnn_vgg16_scenes",
        ),
        {"AP50": "AP50", "AP": "AP"},
        view=View(ladder_regions.table, ladder_regions.plot, ladder_regions.describe, ladder_regions.programs),
        page="regions.md",
    ),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Trains, scores, counts and times the systems of a ladder."""

    ladder: tyro.conf.Positional[str]
    """Which: semantic, detection, regions."""
    only: tuple[str, ...] = ()
    """These of its recipes alone. Results then go into `runs`; the documentation stays as it is."""
    repeats: int = 9
    """Rounds of timing."""
    runs: pathlib.Path = pathlib.Path("runs")
    """The folder of the runs, one a recipe."""
    train: bool = True
    """Train what is not trained yet; without, it is left out and named."""
    redraw: bool = False
    """Measure nothing: make table and plot anew from the results there are."""


def main(arguments: list[str] | None = None) -> int:
    """Climbs a ladder; returns the exit status: 0, 1 where a system failed, 130 where it was stopped."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = tyro.cli(Options, args=arguments, prog="python -m benchmarks.ladder")
    if options.repeats < 1:
        raise SystemExit(f"--repeats must be at least 1, got {options.repeats}.")
    # Before JAX starts: else it takes most of a GPU's memory for itself, and training needs some.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    ladder, results = chosen(options), Results(options)
    with one_sentence():
        if options.redraw:
            results.read()
            results.show(ladder)
            return 0
        results.begin(ladder, command_line("benchmarks.ladder", arguments))
    try:
        train_all(results, options, ladder)
        measure_all(results, options, ladder.view)
    except KeyboardInterrupt:
        say(f"stopped; {results.path} has what was measured, and the same command continues")
        print(ladder.view.table(results.rows, ladder.scores))
        return 130
    results.show(ladder)
    return 1 if any("failed" in row for row in results.rows) else 0


def chosen(options: Options) -> Ladder:
    """The ladder asked for. `SystemExit` for a name that there is not."""
    if options.ladder not in LADDERS:
        raise SystemExit(f"there is no ladder {options.ladder!r}; there are {', '.join(LADDERS)}.")
    ladder = LADDERS[options.ladder]
    if unknown := set(options.only) - set(ladder.recipes):
        raise SystemExit(f"--only names {unknown.pop()!r}; the ladder has {', '.join(ladder.recipes)}.")
    return ladder._replace(recipes=options.only or ladder.recipes)


class Results:
    """What is known so far of each system, kept on disk."""

    def __init__(self, options: Options) -> None:
        self.whole = not options.only
        """Whether it is all of the ladder, and for the documentation."""
        folder, pages = (ROOT / "benchmarks/results", ROOT / "docs") if self.whole else (options.runs, options.runs)
        self.path = folder / f"ladder_{options.ladder}.json"
        self.picture = pages / f"ladder_{options.ladder}.png"
        self.page, self.name = ROOT / "docs" / LADDERS[options.ladder].page, options.ladder
        self.report: dict[str, Any] = {"rows": []}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One a system, in the ladder's order: name, recipe, and of the rest what there is."""
        return self.report["rows"]

    def begin(self, ladder: Ladder, command: str) -> None:
        """Rows with nothing but names. `ValueError` where the documentation has no place for them."""
        if self.whole:
            around(self.page, f"ladder {self.name}")
        names = [pathlib.PurePath(name).stem.removesuffix("_scenes") for name in ladder.recipes]
        rows = [{"name": name, "recipe": recipe} for name, recipe in zip(names, ladder.recipes)]
        self.report = {"command": command, "machine": describe_machine(), "rows": rows}

    def read(self) -> None:
        """What an earlier command wrote. `ValueError` where there is nothing."""
        if not self.path.exists():
            raise ValueError(f"there are no results {self.path} to draw; leave out --redraw.")
        self.report = json.loads(self.path.read_text())

    def save(self) -> None:
        """Writes all that is known, after every system and round: a command that is cut short keeps what it has."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(self.report, indent=1) + "\n")

    def fail(self, row: dict[str, Any], error: Exception) -> None:
        """Names what failed; the others go on."""
        if not isinstance(error, ValueError):
            traceback.print_exception(error)
        row["failed"] = (str(error) or type(error).__name__).splitlines()[0]
        say(f"{row['name']} failed: {row['failed']}")
        self.save()

    def show(self, ladder: Ladder) -> None:
        """Prints the table, draws the plot, and puts both into the documentation where it is the whole ladder."""
        text = ladder.view.table(self.rows, ladder.scores)
        print(text)
        heading, name = next(iter(ladder.scores.items()))
        drawn = ladder.view.plot(self.rows, self.picture, title=ladder.title, heading=heading, name=name)
        if self.whole:
            write_between(self.page, f"ladder {self.name}", text)
        say(f"results: {self.path}" + (f", plot: {self.picture}" if drawn else "; nothing to plot"))


def train_all(results: Results, options: Options, ladder: Ladder) -> None:
    """Trains and scores each system, one after the other."""
    data: Any = None
    for number, row in enumerate(results.rows, start=1):
        say(f"\n{row['name']}, {number} of {len(results.rows)}")
        try:
            recipe = recipe_named(row["recipe"], options.runs)
            images = images_of(recipe, sizes=ladder.same_sizes)
            data = data or images
            if images != data:
                raise ValueError(f"{row['recipe']} has other images than the recipes before it: {images}.")
            train(row["recipe"], recipe, allowed=options.train)
            row |= {"trained": describe_training(recipe), "scores": scores_of(recipe.run)}
            row |= ladder.view.describe(recipe)
        except Exception as error:
            results.fail(row, error)
        results.save()


def recipe_named(name: str, runs: pathlib.Path) -> Recipe:
    """A recipe of `configs` or of a Python file, its run folder under `runs`. `ValueError` where there is none."""
    if not name.endswith(".py") and name not in CONFIGS:
        raise ValueError(f"there is no recipe {name} in configs.")
    recipe = recipe_of(pathlib.Path(name)) if name.endswith(".py") else CONFIGS[name]
    return dataclasses.replace(recipe, run=runs / pathlib.PurePath(name).stem)


def images_of(recipe: Recipe, *, sizes: bool) -> tuple[Any, ...]:
    """What must be the same for a fair comparison: the images, and the sizes they are brought to."""
    data = recipe.data
    return data.format, str(data.root), data.train, data.val, *([data.buckets] if sizes else [])


def train(name: str, recipe: Recipe, *, allowed: bool) -> None:
    """Trains the recipe to its end, unless it is.

    Raises:
      ValueError: it is not trained and `allowed` is False, its run folder holds a run of other settings, or training
        failed.
    """
    if staged(recipe):
        Stages(recipe.run).check(*runs_of(recipe).values())
    elif (recipe.run / "config.json").exists():
        check_same(recipe.run, recipe, load_run(recipe.run).vocabulary)
    if trained(recipe):
        say(f"{recipe.run} is trained")
        return
    if not allowed:
        raise ValueError(f"{recipe.run} is not trained to step {recipe.steps}: leave out --no-train.")
    run_module("train", name, "--run", str(recipe.run))


def scores_of(run: pathlib.Path) -> dict[str, float | None]:
    """The scores on the validation images, made by `train.evaluate` if the run has gone on since they were written."""
    scores, metrics = run / "results_val.json", run / "metrics.jsonl"
    if not scores.exists() or scores.stat().st_mtime < metrics.stat().st_mtime:
        run_module("train.evaluate", str(run))
    return json.loads(scores.read_text())


def run_module(module: str, *arguments: str) -> None:
    """Runs `python -m MODULE` as a process of its own, which says what it does on our terminal.

    ^C goes to it once, so that it saves what it has before both stop.

    Raises:
      ValueError: it failed.
      KeyboardInterrupt: it was stopped.
    """
    say(f"$ python -m {' '.join([module, *arguments])}")
    # A session of its own: the terminal's ^C then reaches it through us alone, since a second one ends it unsaved.
    child = subprocess.Popen([sys.executable, "-m", module, *arguments], start_new_session=True)
    try:
        status = child.wait()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        child.wait()
        raise
    if status == 143:
        raise KeyboardInterrupt
    if status:
        raise ValueError(f"python -m {module} ended with status {status}; what it said is above.")


def measure_all(results: Results, options: Options, view: View) -> None:
    """Compiles and counts each system that is trained, then times all of them in turn."""
    systems: dict[str, System] = {}
    rows = {row["name"]: row for row in results.rows if "failed" not in row}
    for name, row in rows.items():
        say(f"compiling {name} ...")
        try:
            recipe = recipe_named(row["recipe"], options.runs)
            system = load_system(recipe.run)
            systems[name] = system._replace(programs={**system.programs, **view.programs(recipe)})
            row["parameters"] = systems[name].parameters
            row |= {title: {**program.facts, "seconds": []} for title, program in systems[name].programs.items()}
        except Exception as error:
            results.fail(row, error)
        results.save()
    if systems:
        time_all(results, rows, systems, options.repeats)


def time_all(results: Results, rows: Mapping[str, dict[str, Any]], systems: Mapping[str, System], rounds: int) -> None:
    """Adds the samples of each round to the rows."""
    import jax

    results.report |= {"device": jax.devices()[0].device_kind, "cores_of_others": []}
    others, begin = CoresOfOthers(), time.perf_counter()
    for number, samples in enumerate(time_in_turn(systems, rounds)):
        for name, title, seconds, error in samples:
            if error is not None:
                results.fail(rows[name], error)
            else:
                rows[name][title]["seconds"].append(seconds)
        if number:
            results.report["cores_of_others"].append(others.average())
        results.save()
        what = f"round {number} of {rounds}" if number else "warm-up"
        say(f"{what}: {time.perf_counter() - begin:.1f} s, {busy(others)}")
        others, begin = CoresOfOthers(), time.perf_counter()


def busy(others: CoresOfOthers) -> str:
    """How much other programs had of the machine, in words."""
    cores = others.average()
    return "other programs unknown" if cores is None else f"other programs held {cores:.2f} cores"


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
