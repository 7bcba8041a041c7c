"""What a run is made of, put together: data, model, state, step, checkpoints; from nothing or where it was left."""

import pathlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from configs.base import Recipe
from segjax import pretrained
from segjax.data.pipeline import DevicePrefetch, prefetch_to_device
from segjax.data.source import Source
from segjax.types import Model, Variables
from train import evaluate as evaluation
from train.checkpoints import Checkpoints
from train.optim import optimizer
from train.recipes import load_run
from train.runtime import say, say_problems, told
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


def read_data(recipe: Recipe) -> tuple[Source, Source]:
    """The parts to train and to evaluate on, their faults said."""
    with told("reading the data"):
        fields = recipe.model.fields
        source, val = (recipe.data.source(part, fields=fields) for part in ("train", "val"))
    if source.classes != val.classes:
        raise ValueError(f"the training data has the classes {source.classes}, the validation data {val.classes}.")
    if source.keypoints != val.keypoints:
        raise ValueError("the training and the validation data have not the same joints; use one list in both.")
    say(f"{len(source)} images to train on, {len(val)} to evaluate on; classes: {', '.join(source.classes)}")
    for part in (source, val):
        if len(part.problems):
            say(f"{part.name}:\n{part.problems.summary()}")
    for what, count in recipe.model.left_out(source, recipe.data).items():
        if count:
            say(f"{source.name}: {count} {what} are not trained on, unless augmentation moves them")
    return source, val


def start(recipe: Recipe, source: Source, val: Source) -> Run:
    """Everything a run needs, at its first step or where its newest checkpoint left it."""
    mesh = data_mesh(recipe.devices)
    whole, shared = shardings(mesh)
    say(f"{mesh.size} x {mesh.devices.flat[0].device_kind}, JAX {jax.__version__}; run folder {recipe.run}")
    model = evaluation.build(recipe, evaluation.vocabulary_of(source))
    transform = optimizer(recipe.optim, recipe.steps)
    known = len(source.problems)
    needed = {"fields": recipe.model.fields, "multiple": recipe.model.multiple}
    batches = recipe.data.training(source, batch_size=recipe.batch_size, seed=recipe.seed, **needed)
    if len(source.problems) > known:  # of a file of proposals
        say_problems(source)
    feed = prefetch_to_device(batches, shared)
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
        loaded=load_start(recipe, mesh),
    )
    begun = ", ".join(map(str, (*recipe.start.runs, *recipe.start.arrays))) or recipe.start.weights
    for path, reason in unused.items():
        say(f"{begun}: {path} is not used: {reason}")
    return state


def load_start(recipe: Recipe, mesh: Mesh) -> Variables | None:
    """The variables that a recipe starts from, None where it starts from nothing."""
    start, model = recipe.start, recipe.model
    if start.runs or start.arrays:
        flat = traverse_util.flatten_dict(model.adapted(_of_runs(start.runs, mesh)), sep="/")
        for path in start.arrays:
            flat |= read_arrays(path)
        return traverse_util.unflatten_dict(flat, sep="/")
    if start.weights is not None:
        weights = pretrained.read_weights(start.weights)
        return model.adapted(pretrained.from_torchvision(start.name, weights, epsilon=start.epsilon, norm=start.norm))
    return None


def _of_runs(runs: tuple[pathlib.Path, ...], mesh: Mesh) -> Variables:
    loaded: Variables = {}
    for run in runs:
        _, other, vocabulary = load_run(run)
        own = evaluation.restore_run(other, vocabulary, mesh)[1].variables
        loaded = {name: {**loaded.get(name, {}), **own.get(name, {})} for name in loaded.keys() | own.keys()}
    return loaded


def read_arrays(path: pathlib.Path) -> dict[str, jax.Array]:
    """Variables by path, of a file of `start.arrays`. `ValueError` where it is none."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: jnp.asarray(arrays[name]) for name in arrays}
    except (OSError, ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"start.arrays names {path}, which is no readable NumPy archive ({error}).") from error


def facts(run: Run) -> dict[str, Any]:
    """What the report says beside what it finds in the metrics: the model's size, compilations, what was left out."""
    parameters = sum(x.size for x in jax.tree.leaves(run.state.params))
    counts = {**run.feed.batches.counts, **run.recipe.model.left_out(run.source, run.recipe.data)}
    left_out = {kind: count for kind, count in counts.items() if count and kind not in ("images", "objects")}
    return {"Parameters": f"{parameters / 1e6:.2f} M", "Compilations": run.step.compilations, **left_out}


@contextmanager
def finished(run: Run) -> Iterator[None]:
    """At its end, by an error too, ends reading ahead and waits until the last checkpoint is on disk."""
    try:
        yield
    finally:
        run.feed.close()
        run.checkpoints.close()
