"""Scores of a trained run.

    python -m train.evaluate runs/faster_rcnn_scenes [--part test]

Prints the table, and writes the scores and what was found into the run's folder.
"""

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
import tyro
from jax.sharding import Mesh
from tqdm import tqdm

from configs.base import Part, Recipe
from configs.system import System
from segjax.data.pipeline import Batches, prefetch_to_device
from segjax.data.source import Source, Vocabulary
from segjax.evaluation.evaluator import Evaluator
from segjax.types import Batch, Model, Variables
from train.checkpoints import Checkpoints
from train.optim import optimizer
from train.recipes import load_run
from train.runtime import finite, one_sentence, say, say_problems, setup, write_text
from train.state import TrainState, state_shapes
from train.step import data_mesh, shardings
from train.tasks import TASKS, over_views

Predict = Callable[[Variables, Batch], Any]


def jit_predict(model: Model, mesh: Mesh) -> Predict:
    """`model.predict` of a batch as one program, its images shared out over `mesh`."""
    whole, shared = shardings(mesh)

    def predict(variables: Variables, batch: Batch) -> Any:
        return model.predict(variables, batch.images, batch.sizes, **batch.given)

    return jax.jit(predict, in_shardings=(whole, shared), out_shardings=shared)


def run_evaluators(
    predict: Predict, variables: Variables, batches: Batches, scores: Sequence[Evaluator], mesh: Mesh
) -> dict[str, float]:
    """Predicts every batch and returns all scores, with the images a second of the whole.

    The device works on a batch while the host scores the one before. Evaluators get predictions as they are, on the
    device, and take from there what they need.
    """
    shared = shardings(mesh)[1]
    ahead: tuple[Batch, Any] | None = None
    images, start = 0, time.perf_counter()

    def settle(batch: Batch, predictions: Any) -> int:
        samples, sizes = jax.device_get((batch.samples, batch.sizes))
        for score in scores:
            score.update(samples, sizes, predictions)
        return int(np.sum(samples >= 0))

    for batch in tqdm(
        prefetch_to_device(batches, shared), total=batches.steps_per_epoch, desc="evaluating", unit="batch", leave=False
    ):
        found = predict(variables, batch)
        if ahead is not None:
            images += settle(*ahead)
        ahead = (batch, found)
    if ahead is not None:
        images += settle(*ahead)
    seconds = time.perf_counter() - start
    results = {name: value for score in scores for name, value in score.compute().items()}
    return {**results, "images_per_second": images / seconds}


def vocabulary_of(source: Source) -> Vocabulary:
    """What the labels of a data set mean."""
    return Vocabulary(source.classes, source.keypoints)


def build(recipe: Recipe, vocabulary: Vocabulary) -> Model:
    """The model of a recipe for these labels."""
    joints = len(vocabulary.keypoints.names) if vocabulary.keypoints else 0
    return recipe.model.build(len(vocabulary.classes), joints)


def restore_run(recipe: Recipe, vocabulary: Vocabulary, mesh: Mesh) -> tuple[Model, TrainState]:
    """The model of a run and its newest state. `ValueError` where the run has no checkpoint, or of other classes."""
    model = build(recipe, vocabulary)
    transform = optimizer(recipe.optim, recipe.steps)
    height, width = recipe.data.buckets[0]

    batch, average = empty_batch(height, width), recipe.optim.ema_decay is not None
    new = state_shapes(model, transform, batch, frozen=recipe.optim.freeze, average=average)
    whole = shardings(mesh)[0]
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), new)
    restored = Checkpoints(recipe.run).restore(shapes)
    if restored.classes != vocabulary.classes:
        raise ValueError(
            f"{recipe.run}: the checkpoint's classes {restored.classes} are not those of config.json "
            f"{vocabulary.classes}; "
            "the two files are of different runs."
        )
    return model, restored.state


def empty_batch(height: int, width: int) -> Batch:
    """One black image without objects, for shapes."""
    from segjax.data.loading import assemble

    return assemble([None], [-1], bucket=(height, width), capacity=1)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Evaluates the newest checkpoint of a run."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run's folder."""
    part: Part = "val"
    """The part of the data set to evaluate on."""
    data_root: pathlib.Path | None = None
    """Where the data is, if it has moved since the run was made."""
    scales: tuple[float, ...] = ()
    """Segmentation: average over the images at these scales, such as 0.75 1 1.25."""
    clean_up: Literal["", "felzenszwalb", "slic", "mean_shift"] = ""
    """Segmentation: score the label maps also after each superpixel, made this way, was given one class."""
    flip: bool = False
    """Segmentation: average over each image and its mirror image."""


def cleaned(model: System, method: str) -> System:
    """The settings with this way of cleaning up, if one is named. `ValueError` where the model has no use for it."""
    if not method:
        return model
    if "clean_up" not in model.untrained:
        raise ValueError(f"--clean-up means nothing for a run of {model.task}; leave it out.")
    return dataclasses.replace(model, clean_up=method)


def main(arguments: list[str]) -> None:
    """Evaluates a run, prints the table, and writes the scores and what was found beside it."""
    setup()
    args = tyro.cli(Arguments, args=arguments, prog="python -m train.evaluate")
    with one_sentence():
        _, recipe, vocabulary = load_run(args.run)
        data = recipe.data if args.data_root is None else dataclasses.replace(recipe.data, root=args.data_root)
        source = data.source(args.part, fields=recipe.model.fields)
        mesh = data_mesh(recipe.devices)
        task = TASKS[recipe.model.task].evaluation(cleaned(recipe.model, args.clean_up), source, vocabulary)
        model, state = restore_run(recipe, vocabulary, mesh)
        model = over_views(recipe.model.task, model, scales=args.scales, flip=args.flip)
        batches = data.evaluation(source, batch_size=recipe.eval_batch_size, part=args.part)
        say(f"evaluating step {int(state.step)} of {args.run} on {len(source)} images of {source.name}")
        results = run_evaluators(jit_predict(model, mesh), state.variables, batches, task.evaluators, mesh)
    say_problems(source)
    print(task.table(results))
    write_text(args.run / f"results_{args.part}.json", json.dumps(finite(results), indent=2) + "\n")
    files = [args.run / f"results_{args.part}.json", *task.save(args.run, args.part)]
    say(f"written: {', '.join(map(str, files))}")


if __name__ == "__main__":
    main(sys.argv[1:])
