"""What a trained run sees in images.

    python -m train.predict runs/faster_rcnn_scenes IMAGE_OR_FOLDER... [--out FOLDER] [--score 0.5]

Writes a picture of each image with what was predicted: of detectors the objects, and all detections in COCO's result
format; of semantic segmentation the classes of the pixels, and the map of their ids.
"""

import dataclasses
import functools
import pathlib
import sys
from typing import Any

import jax
import tyro

from segjax.data.files import ImageFiles
from train.evaluate import jit_predict, restore_run, run_evaluators
from train.recipes import load_run
from train.runtime import one_sentence, say, say_problems, setup
from train.step import data_mesh
from train.tasks import TASKS, over_views

OPTIONS = ("score", "proposals", "scales", "flip", "tile")
"""Those of the arguments that not every task has a use for."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Runs the newest checkpoint of a run on images."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run's folder."""
    images: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Images, and folders of them."""
    out: pathlib.Path | None = None
    """Where pictures and results go; RUN/predictions by default."""
    score: float | None = None
    """Detectors: detections below it, 0.5 by default, are left out of the pictures; detections.json has them all."""
    proposals: pathlib.Path | None = None
    """Fast R-CNN: a file of proposals (`segjax.data.proposals`); its image ids are the images' paths."""
    scales: tuple[float, ...] | None = None
    """Segmentation: average over the image at these scales, such as 0.75 1 1.25."""
    flip: bool = False
    """Segmentation: average over the image and its mirror image."""
    tile: int | None = None
    """Segmentation: predict at the image's own size in overlapping tiles of this side, a multiple of 32, instead of
    fitting the image into a bucket. However large the image, the device holds one tile."""


def predict(run: pathlib.Path, paths: tuple[pathlib.Path, ...], *, out: pathlib.Path, **options: Any) -> None:
    """Predicts all images, and writes pictures and results under `out`.

    Args:
      **options: `score`, `proposals`, `scales`, `flip`, `tile`, those that are given and that the run's task has a use
        for.

    Raises:
      ValueError: an option that means nothing for the run's model.
    """
    recipe, vocabulary = load_run(run)[1:]
    task = TASKS[recipe.model.task]
    if unknown := sorted(set(options) - task.options):
        raise ValueError(f"--{unknown[0]} means nothing for {run}, a run of {recipe.model.task}; leave it out.")
    source = ImageFiles(paths, classes=vocabulary.classes, keypoints=vocabulary.keypoints)
    mesh = data_mesh(recipe.devices)
    model, state = restore_run(recipe, vocabulary, mesh)
    model = over_views(recipe.model.task, model, scales=options.pop("scales", ()), flip=options.pop("flip", False))
    tile = options.pop("tile", None)
    boxes = open_proposals(options.pop("proposals"), source) if "proposals" in options else None
    out.mkdir(parents=True, exist_ok=True)
    predictions = task.predictions(source, vocabulary, out, **options)
    if tile is not None:
        whole = functools.partial(jax.jit(model.predict), state.variables)
        predictions.tiles(whole, tile=tile, overlap=tile // 64 * 32)
    else:
        data = dataclasses.replace(recipe.data, proposals=("", "", ""))
        batches = data.evaluation(source, batch_size=recipe.eval_batch_size, proposals=boxes)
        run_evaluators(jit_predict(model, mesh), state.variables, batches, [predictions], mesh)
    say_problems(source)
    say(predictions.write())


def given(args: Arguments) -> dict[str, Any]:
    """Those of `OPTIONS` that are on the command line."""
    values = {name: getattr(args, name) for name in OPTIONS}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def main(arguments: list[str]) -> None:
    """Predicts from a command line."""
    setup()
    args = tyro.cli(Arguments, args=arguments, prog="python -m train.predict")
    with one_sentence():
        if not args.images:
            raise ValueError("name at least one image or folder after the run.")
        predict(args.run, args.images, out=args.out or args.run / "predictions", **given(args))


if __name__ == "__main__":
    main(sys.argv[1:])
