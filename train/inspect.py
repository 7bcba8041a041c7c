"""What a recipe's data holds and what training will make of it, before any training.

    python -m train.inspect NAME [--field value ...]

Prints, for each part of the data set, counts, sizes of boxes or shares of classes, the bucket plan, what is beyond the
capacity and every kind of fault, and writes runs/NAME/inspect_PART.png, a sheet of labelled images. At last it writes
runs/NAME/inspect_batches.png, what training will see: cropped, mixed and coloured as the recipe says.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from configs.base import Recipe
from segjax.data import batch_pictures
from segjax.data.buckets import Bucket
from segjax.data.source import Source
from segjax.visualize import save_png
from train.recipes import recipe_from
from train.runtime import one_sentence, say, told
from train.tasks import TASKS, Inspected, Task


def inspect_source(
    task: Task, source: Source, buckets: Sequence[Bucket], capacity: int, out: pathlib.Path
) -> Inspected:
    """Inspects one part of a data set, decoding all images; writes the sheet of labelled images to `out`."""
    found = task.inspect(source, buckets=buckets, capacity=capacity)
    save_png(out, task.picture(source))
    return found


def show_batches(recipe: Recipe, source: Source, out: pathlib.Path, *, count: int = 12) -> None:
    """Writes a sheet of the first `count` images that training shows a model, augmented, to `out`.

    Proposals, which are not drawn, need not have been made yet.
    """
    data, model = dataclasses.replace(recipe.data, proposals=("", "", "")), recipe.model
    batches = data.training(source, batch_size=count, seed=recipe.seed, fields=model.fields, multiple=model.multiple)
    try:
        save_png(out, batch_pictures.picture(batches, source, count=count))
    finally:
        batches.close()


def main(arguments: list[str]) -> None:
    """Inspects every part that a recipe names; all are read with the class map of the part to train on."""
    name, recipe = recipe_from(arguments, program="python -m train.inspect")
    data, sources, classes = recipe.data, {}, None
    with one_sentence():
        for part in ("train", "val", "test"):
            if not getattr(data, part):
                continue
            with told(f"{name}: inspecting {part}"):
                source = data.source(part, classes, fields=recipe.model.fields, segmentations=True)
                buckets = data.buckets if part == "train" else data.evaluation_buckets or data.buckets
                out = recipe.run / f"inspect_{part}.png"
                found = inspect_source(TASKS[recipe.model.task], source, buckets, data.capacity, out)
            sources[part], classes = source, source.classes
            print(f"{found.text()}\n")
            say(f"labelled images: {out}")
        if "train" in sources:
            out = recipe.run / "inspect_batches.png"
            with told(f"{name}: making batches"):
                show_batches(recipe, sources["train"], out)
            say(f"images as training sees them: {out}")


if __name__ == "__main__":
    main(sys.argv[1:])
