"""What a trained run sees in images.

    python -m train.predict runs/faster_rcnn_scenes IMAGE_OR_FOLDER... [--out FOLDER] [--score 0.5]

Writes a picture per image with the boxes found, and all detections in COCO's result format.
"""

import dataclasses
import json
import pathlib
import sys

import tyro

from segjax.data.files import ImageFiles
from segjax.data.proposals import ProposalFile
from segjax.evaluation.evaluator import CollectedDetections, DetectionCollector
from segjax.visualize import save_png
from train.detection_pictures import draw_found
from train.evaluate import jit_predict, restore_run, run_evaluators
from train.recipes import load_run
from train.runtime import one_sentence, say, setup, write_text
from train.step import data_mesh


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Runs the newest checkpoint of a run on images."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run's folder."""
    images: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Images, and folders of them."""
    out: pathlib.Path | None = None
    """Where pictures and detections.json go; RUN/predictions by default."""
    score: float = 0.5
    """Detections below it are left out of the pictures; detections.json has them all."""
    proposals: pathlib.Path | None = None
    """A file of proposals (`segjax.data.proposals`) for a Fast R-CNN; its image ids are the images' paths."""


def predict(
    run: pathlib.Path,
    paths: tuple[pathlib.Path, ...],
    *,
    out: pathlib.Path,
    score: float,
    proposals: pathlib.Path | None = None,
) -> int:
    """Predicts all images, writes pictures and JSON under `out`, and returns the number of detections drawn."""
    _, recipe, vocabulary = load_run(run)
    classes = vocabulary.classes
    source = ImageFiles(paths, classes=classes, keypoints=vocabulary.keypoints)
    mesh = data_mesh(recipe.devices)
    model, state = restore_run(recipe, vocabulary, mesh)
    found = DetectionCollector(source, classes=classes)
    boxes = ProposalFile(proposals, source) if proposals else None
    data = dataclasses.replace(recipe.data, proposals=("", "", ""))
    batches = data.evaluation(source, batch_size=recipe.eval_batch_size, proposals=boxes)
    run_evaluators(jit_predict(model, mesh), state.variables, batches, [found], mesh)
    out.mkdir(parents=True, exist_ok=True)
    rows = found.collected()
    drawn = sum(draw(source, sample, rows, out / picture_name(source, sample), score) for sample in found.seen)
    results = [{**row, "category": classes[row["category_id"] - 1]} for row in found.results()]
    write_text(out / "detections.json", json.dumps(results) + "\n")
    if len(source.problems):
        say(source.problems.summary())
    say(
        f"{len(found.seen)} images, {drawn} detections of score {score} and more; pictures and detections.json in {out}"
    )
    return drawn


def picture_name(source: ImageFiles, sample: int) -> str:
    """The file of image `sample`'s picture; numbered, since images of two folders may share a name."""
    return f"{sample:05d}_{pathlib.Path(source.info(sample).path).stem}.png"


def draw(source: ImageFiles, sample: int, rows: CollectedDetections, path: pathlib.Path, score: float) -> int:
    """Draws the detections of an image and saves the picture. Returns their number."""
    shown = rows.select((rows.samples == sample) & (rows.scores >= score))
    save_png(path, draw_found(source.image(sample), shown, classes=source.classes, keypoints=source.keypoints))
    return len(shown.scores)


def main(arguments: list[str]) -> None:
    """Predicts from a command line."""
    setup()
    args = tyro.cli(Arguments, args=arguments, prog="python -m train.predict")
    with one_sentence():
        if not args.images:
            raise ValueError("name at least one image or folder after the run.")
        predict(
            args.run, args.images, out=args.out or args.run / "predictions", score=args.score, proposals=args.proposals
        )


if __name__ == "__main__":
    main(sys.argv[1:])
