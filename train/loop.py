"""The training loop, read from top to bottom: data, model, state, steps, evaluation, report."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from configs.base import Recipe, Start
from segjax import pretrained
from segjax.data.pipeline import DevicePrefetch, prefetch_to_device
from segjax.data.source import Source
from segjax.types import Model, Variables
from train import evaluate as evaluation
from train.checkpoints import Checkpoints
from train.metrics import Metrics
from train.optim import optimizer, schedule
from train.report_detection import write_detection_report
from train.runtime import check_same, load_run, save_run, say, told
from train.state import TrainState, create_state
from train.step import Step, data_mesh, make_step, shardings


class Run(NamedTuple):
    """What a run is made of."""

    recipe: Recipe
    source: Source
    val: Source
    mesh: Mesh
    model: Model
    step: Step
    state: TrainState
    feed: DevicePrefetch
    checkpoints: Checkpoints


def train(name: str, recipe: Recipe) -> dict[str, float] | None:
    """Runs `recipe` to its end, from the newest checkpoint in its folder if there is one, and writes the report.

    Returns the final scores; None where SIGTERM or SIGINT stopped it, with everything saved.
    """
    source, val = read_data(recipe)
    if (recipe.run / "config.json").exists():
        check_same(recipe.run, recipe)
    recipe.run.mkdir(parents=True, exist_ok=True)
    save_run(name, recipe, source.classes)
    run = start(recipe, source, val)
    predict = evaluation.jit_predict(run.model, run.mesh)
    rate = schedule(recipe.optim, recipe.steps)
    first = int(run.state.step)
    metrics = Metrics(recipe.run, start=first, steps=recipe.steps, batch_size=recipe.batch_size, rate=rate)

    def score(state: TrainState) -> tuple[dict[str, float], tuple[Any, ...]]:
        begin = time.perf_counter()
        scores = evaluation.evaluators(val, source.classes)
        batches = recipe.data.evaluation(val, batch_size=recipe.eval_batch_size)
        results = evaluation.run_evaluators(predict, state.variables, batches, scores, run.mesh)
        metrics.evaluated(int(state.step), results)
        metrics.exclude(time.perf_counter() - begin)
        return results, scores

    with stop_signals() as stop, metrics:
        state = run.state
        for n in range(first + 1, recipe.steps + 1):
            state = step(run, state, n, metrics)
            last = stop.asked or n == recipe.steps
            if last or n % recipe.log_every == 0 or n % recipe.checkpoint_every == 0:
                metrics.settle(source)
            if last or n % recipe.checkpoint_every == 0:
                run.checkpoints.save(state, run.feed.get_state(), source.classes)
            if stop.asked:
                say(f"stopped at step {n}; the same command continues from there")
                break
            if recipe.eval_every and n % recipe.eval_every == 0 and not last:
                say(f"\nstep {n}: AP {score(state)[0]['AP']:.3f}")
        finish(run)
        if stop.asked:
            return None
        results, scores = score(state)
    print(evaluation.table(results, source.classes))
    page = write_detection_report(recipe.run, val, results, scores[0], facts=facts(run))
    say(f"report with pictures: {page}")
    return results


def read_data(recipe: Recipe) -> tuple[Source, Source]:
    """The parts to train and to evaluate on, their faults said."""
    with told("reading the data"):
        source, val = recipe.data.source("train"), recipe.data.source("val")
    if source.classes != val.classes:
        raise ValueError(f"the training data has the classes {source.classes}, the validation data {val.classes}.")
    say(f"{len(source)} images to train on, {len(val)} to evaluate on; classes: {', '.join(source.classes)}")
    for part in (source, val):
        if len(part.problems):
            say(f"{part.name}:\n{part.problems.summary()}")
    return source, val


def start(recipe: Recipe, source: Source, val: Source) -> Run:
    """Everything a run needs, at its first step or where its newest checkpoint left it."""
    mesh = data_mesh(recipe.devices)
    whole, shared = shardings(mesh)
    say(f"{mesh.size} x {mesh.devices.flat[0].device_kind}, JAX {jax.__version__}; run folder {recipe.run}")
    model = recipe.model.build(len(source.classes))
    transform = optimizer(recipe.optim, recipe.steps)
    feed = prefetch_to_device(recipe.data.training(source, batch_size=recipe.batch_size, seed=recipe.seed), shared)
    with told("making the model"):
        state = jax.device_put(first_state(recipe, model, mesh), whole)
    say(f"{sum(x.size for x in jax.tree.leaves(state.params)) / 1e6:.2f} million parameters")
    checkpoints = Checkpoints(recipe.run, keep=recipe.keep)
    if checkpoints.latest is not None:
        restored = checkpoints.restore(state)
        if restored.classes != source.classes:
            raise ValueError(f"{recipe.run} was trained on {restored.classes}; the data now has {source.classes}.")
        state = restored.state
        feed.set_state(restored.position)
        say(f"continuing at step {int(state.step)}")
    optim = recipe.optim
    stepper = make_step(
        model,
        transform,
        mesh=mesh,
        loss_weights=dict(recipe.loss_weights),
        ema_decay=optim.ema_decay,
        accumulate=optim.accumulate,
        frozen=optim.freeze,
    )
    return Run(recipe, source, val, mesh, model, stepper, state, feed, checkpoints)


def first_state(recipe: Recipe, model: Model, mesh: Mesh) -> TrainState:
    """The state before the first step; what of the weights to start from is not used is said."""
    optim = recipe.optim
    state, unused = create_state(
        model,
        optimizer(optim, recipe.steps),
        evaluation.empty_batch(*recipe.data.buckets[0]),
        seed=recipe.seed,
        frozen=optim.freeze,
        average=optim.ema_decay is not None,
        loaded=load_start(recipe.start, mesh),
    )
    for path, reason in unused.items():
        say(f"{recipe.start.run or recipe.start.weights}: {path} is not used: {reason}")
    return state


def load_start(start: Start, mesh: Mesh) -> Variables | None:
    """The variables that a recipe starts from, None where it starts from nothing."""
    if start.run is not None:
        _, recipe, classes = load_run(start.run)
        return evaluation.restore_run(recipe, classes, mesh)[1].variables
    if start.weights is not None:
        return pretrained.from_torchvision(start.name, pretrained.read_torch_file(start.weights))
    return None


def step(run: Run, state: TrainState, n: int, metrics: Metrics) -> TrainState:
    """Step `n`: the next batch through the jitted step. A shape met for the first time is compiled, and said so."""
    batch = next(run.feed)
    before, begin = run.step.compilations, time.perf_counter()
    state, values = run.step(state, batch)
    if run.step.compilations > before:
        seconds = time.perf_counter() - begin
        metrics.exclude(seconds)
        height, width = batch.images.shape[1:3]
        say(f"\nstep {n}: compiled for images of {height}x{width} in {seconds:.1f} s ({before + 1} so far)")
    metrics.stepped(n, values, batch.samples)
    return state


def facts(run: Run) -> dict[str, Any]:
    """What the report says beside what it finds in the metrics: the model's size, compilations, what was left out."""
    parameters = sum(x.size for x in jax.tree.leaves(run.state.params))
    counts = run.feed.batches.counts
    left_out = {kind: count for kind, count in counts.items() if count and kind not in ("images", "objects")}
    return {"Parameters": f"{parameters / 1e6:.2f} M", "Compilations": run.step.compilations, **left_out}


def finish(run: Run) -> None:
    """Ends reading ahead, and waits until the checkpoint is on disk."""
    run.feed.close()
    run.checkpoints.close()


class Stop:
    """Whether the run has been asked to stop."""

    asked = False


@contextmanager
def stop_signals() -> Iterator[Stop]:
    """While open, SIGTERM and SIGINT ask the run to stop after its step instead of ending it. A second one ends it."""
    stop = Stop()
    old = {}

    def ask(number: int, _: object) -> None:
        stop.asked = True
        signal.signal(number, old[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        old[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
