"""The training loop, read from top to bottom: data, model, state, steps, evaluation, report."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from configs.base import Recipe
from train import evaluate as evaluation
from train.metrics import Metrics
from train.optim import schedule
from train.recipes import check_same, save_run
from train.run import Run, facts, finished, read_data, start
from train.runtime import say
from train.state import TrainState
from train.tasks import TASKS, Evaluation
from train.times import Times


def train(name: str, recipe: Recipe) -> dict[str, float] | None:
    """Runs `recipe` to its end, from the newest checkpoint in its folder if there is one, and writes the report.

    Returns the final scores; None where SIGTERM or SIGINT stopped it, with everything saved.
    """
    source, val = read_data(recipe)
    vocabulary = evaluation.vocabulary_of(source)
    if (recipe.run / "config.json").exists():
        check_same(recipe.run, recipe, vocabulary)
    recipe.run.mkdir(parents=True, exist_ok=True)
    save_run(name, recipe, vocabulary)
    run = start(recipe, source, val)
    predict = evaluation.jit_predict(run.model, run.mesh)
    rate = schedule(recipe.optim, recipe.steps)
    first = int(run.state.step)
    metrics = Metrics(recipe.run, start=first, steps=recipe.steps, batch_size=recipe.batch_size, rate=rate)

    def score(state: TrainState) -> tuple[dict[str, float], Evaluation]:
        begin = Times.now()
        task = TASKS[recipe.model.task].evaluation(recipe.model, val, vocabulary)
        batches = recipe.data.evaluation(val, batch_size=recipe.eval_batch_size)
        results = evaluation.run_evaluators(predict, state.variables, batches, task.evaluators, run.mesh)
        metrics.evaluated(int(state.step), results)
        metrics.exclude(begin.until(Times.now()))
        return results, task

    with stop_signals() as stop, metrics:
        with finished(run):
            state = run.state
            for n in range(first + 1, recipe.steps + 1):
                state = step(run, state, n, metrics)
                # Asked once a step: a signal that comes further down is for the next step, after which it is saved.
                stopping = stop.asked
                last = stopping or n == recipe.steps
                if last or n % recipe.log_every == 0 or n % recipe.checkpoint_every == 0:
                    metrics.settle(source)
                if last or n % recipe.checkpoint_every == 0:
                    run.checkpoints.save(state, run.feed.get_state(), source.classes)
                if stopping:
                    say(f"stopped at step {n}; the same command continues from there")
                    break
                if recipe.eval_every and n % recipe.eval_every == 0 and not last:
                    results, task = score(state)
                    say(f"\nstep {n}: {task.headline(results)}")
            if run.checkpoints.latest is None:  # a recipe of no steps: what it starts from, put together
                run.checkpoints.save(state, run.feed.get_state(), source.classes)
        if stop.asked:
            return None
        results, task = score(state)
    print(task.table(results))
    page = task.report(recipe.run, results, facts(run))
    say(f"report with pictures: {page}")
    return results


def step(run: Run, state: TrainState, n: int, metrics: Metrics) -> TrainState:
    """Step `n`: the next batch through the jitted step. A shape met for the first time is compiled, and said so."""
    batch = next(run.feed)
    before, begin = run.step.compilations, Times.now()
    state, values = run.step(state, batch)
    if run.step.compilations > before:
        spent = begin.until(Times.now())
        metrics.exclude(spent)
        height, width = batch.images.shape[1:3]
        say(f"\nstep {n}: compiled for images of {height}x{width} in {spent.seconds:.1f} s ({before + 1} so far)")
    metrics.stepped(n, values, batch.samples)
    return state


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
