"""What a trained run costs: its programs compiled, counted by XLA, and ready to be timed."""

import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.ladder_flops import count_flops
from benchmarks.timing import Run, calls_per_sample, seconds_a_call
from configs.base import Recipe
from segjax.data.buckets import Bucket
from segjax.data.pipeline import Batches
from segjax.types import Batch, Model
from train.evaluate import jit_predict, restore_run
from train.optim import optimizer
from train.recipes import load_run
from train.state import TrainState
from train.step import data_mesh, make_step, shardings

AT_LEAST = 0.2
"""Seconds a sample lasts: quicker programs are called several times in it."""
PROGRAMS = ("inference", "inference_in_batches", "training")
"""`predict` of one image, `predict` of an evaluation's batch, a step of training."""


class Program(NamedTuple):
    """A compiled program on a batch of real images."""

    run: Run
    facts: dict[str, Any]
    """images of a call, height and width, flops, memory_mib, compile_seconds."""


class System(NamedTuple):
    """A trained model."""

    parameters: int
    programs: Mapping[str, Program]


class Sample(NamedTuple):
    """A measurement, or why there is none."""

    system: str
    program: str
    seconds: float | None
    error: Exception | None = None


def load_system(run: pathlib.Path) -> System:
    """The run's newest state and its programs, on one device. Compiles each: seconds to minutes.

    All work on images of the first of the data's buckets, so that systems of the same data do the same work.

    Raises:
      ValueError: no run is there, or no image fits the first bucket.
    """
    _, recipe, vocabulary = load_run(run)
    model, state = restore_run(recipe, vocabulary, data_mesh(1))
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    sizes = {"inference": 1, "inference_in_batches": recipe.eval_batch_size}
    programs = {name: inference(recipe, model, state, images) for name, images in sizes.items()}
    if recipe.steps:  # what stages put together at the end is not trained
        programs["training"] = training(recipe, model, state)
    return System(parameters, programs)


def inference(recipe: Recipe, model: Model, state: TrainState, images: int) -> Program:
    """`predict` of the first `images` validation images of the first bucket."""
    mesh = data_mesh(1)
    source = recipe.data.source("val", fields=recipe.model.fields)
    batches = recipe.data.evaluation(source, batch_size=images)
    batch = jax.device_put(first_batch(batches, recipe.data.buckets[0]), shardings(mesh)[1])
    program, facts = compile_program(jit_predict(model, mesh), state.variables, batch)
    return Program(lambda: jax.block_until_ready(program(state.variables, batch)), facts)


def training(recipe: Recipe, model: Model, state: TrainState) -> Program:
    """The step of `python -m train`, which carries its state from call to call."""
    mesh, optim = data_mesh(1), recipe.optim
    step = make_step(
        model,
        optimizer(optim, recipe.steps),
        mesh=mesh,
        loss_weights=dict(recipe.loss_weights),
        ema_decay=optim.ema_decay,
        accumulate=optim.accumulate,
        frozen=optim.freeze,
    )
    source = recipe.data.source("train", fields=recipe.model.fields)
    batches = recipe.data.training(source, batch_size=recipe.batch_size, seed=recipe.seed, fields=recipe.model.fields)
    whole, shared = shardings(mesh)
    batch = jax.device_put(first_batch(batches, recipe.data.buckets[0]), shared)
    # A copy: the step is given its state for good, and inference needs these variables.
    carried = [jax.device_put(jax.tree.map(jnp.copy, state), whole)]
    program, facts = compile_program(step.jitted, carried[0], batch)

    def run() -> None:
        carried[0], _ = jax.block_until_ready(program(carried[0], batch))

    return Program(run, facts)


def first_batch(batches: Batches, bucket: Bucket) -> Batch:
    """The first batch of an epoch whose images have this size. `ValueError` without one."""
    for step in range(batches.steps_per_epoch):
        batch = batches.batch_at(step)
        if batch.images.shape[1:3] == tuple(bucket):
            return batch
    raise ValueError(f"no image of the data falls into its first bucket, {bucket}: put one first that has images.")


def compile_program(jitted: Any, *args: Any) -> tuple[Any, dict[str, Any]]:
    """The compiled program and what XLA says of it; `args` end with the batch."""
    begin = time.perf_counter()
    program = jitted.lower(*args).compile()
    seconds = time.perf_counter() - begin
    images, height, width, _ = args[-1].images.shape
    facts = {"images": images, "height": height, "width": width}
    facts |= {"flops": count_flops(program), "memory_mib": count_mib(program), "compile_seconds": round(seconds, 2)}
    return program, facts


def count_mib(program: Any) -> float | None:
    """Arguments, results and temporaries of a call in MiB; what a result takes over from an argument counts once."""
    found = program.memory_analysis()
    if found is None:
        return None
    held = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return round((held - found.alias_size_in_bytes) / 2**20, 2)


def time_in_turn(systems: Mapping[str, System], rounds: int, at_least: float = AT_LEAST) -> Iterator[list[Sample]]:
    """Rounds over all programs of all systems, so that what else the machine does falls on all of them alike.

    Every other round goes backwards. Each program is called twice before, untimed. One that fails is left out from
    then on; the first list holds those that failed before the first round.
    """
    counts: dict[tuple[str, str], int] = {}
    failed = []
    for name, system in systems.items():
        for title, program in system.programs.items():
            try:
                seconds = [seconds_a_call(program.run, 1) for _ in range(2)]
                counts[name, title] = calls_per_sample(seconds[-1], at_least=at_least)
            except Exception as error:
                failed.append(Sample(name, title, None, error))
    yield failed
    for number in range(rounds):
        order = list(counts)[:: -1 if number % 2 else 1]
        samples = [_sample(systems, key, counts[key]) for key in order]
        for sample in samples:
            if sample.error is not None:
                del counts[sample.system, sample.program]
        yield samples


def _sample(systems: Mapping[str, System], key: tuple[str, str], calls: int) -> Sample:
    try:
        return Sample(*key, seconds_a_call(systems[key[0]].programs[key[1]].run, calls))
    except Exception as error:
        return Sample(*key, None, error)
