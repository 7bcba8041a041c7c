"""What files of proposals cover of the objects of a data set, as tables and as one picture.

    python -m train.proposal_recall fast_rcnn_scenes data/scenes/selective_search_val.npz data/scenes/proposals_val.npz

The recipe, a name or a file, says where the labelled images are. Recall bounds what a detector on these proposals can
find: see `segjax.evaluation.recall`.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

import tyro

from configs.data import Data, Part
from segjax.data.proposals import open_proposals
from segjax.data.source import Source
from segjax.evaluation.recall import Coverage, coverage
from segjax.evaluation.text import grid
from train.recall_plot import SHOWN, plot_recall
from train.recipes import named_recipe
from train.runtime import finite, one_sentence, say, say_problems, write_text

PROGRAM = "python -m train.proposal_recall"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compares files of proposals by what they cover of the labelled objects."""

    files: tyro.conf.Positional[tuple[pathlib.Path, ...]]
    """Files of proposals (`segjax.data.proposals`)."""
    data: Data
    part: Part = "val"
    """The part of the data set."""
    out: pathlib.Path | None = None
    """The picture, a PNG file; proposal_recall_PART.png beside the first file by default. The numbers are beside it, as
    JSON."""


def compare(files: Sequence[pathlib.Path], source: Source) -> dict[str, Coverage]:
    """What each file covers, by its name, or by its path where two have the same name.

    Raises:
        ValueError: no file is named, one is named twice, or no object of the source counts.
        DataError: a file is no file of proposals, or lacks images of the source.
    """
    if not files or len(set(files)) < len(files):
        raise ValueError("name one file of proposals or more, each once.")
    stems = [path.stem for path in files]
    names = [path.stem if stems.count(path.stem) == 1 else str(path) for path in files]
    found = {name: coverage(source, open_proposals(path, source)) for name, path in zip(names, files)}
    if not len(found[names[0]].labels):
        raise ValueError(f"{source.name} has no labelled object, so that nothing can be covered: name another part.")
    return found


def scores(found: Coverage) -> dict[str, float]:
    """Every number of the tables, by name."""
    values = {"proposals": float(found.proposals.mean())}
    for count in SHOWN:
        at = found.at(count)
        values |= {f"recall{iou * 100:.0f}@{count}": float(found.recall(iou)[at]) for iou in (0.5, 0.7)}
        values |= {f"AR@{count}": float(found.average_recall()[at])}
        values |= {f"MABO@{count}": float(found.mean_best_overlap()[at])}
    best = found.best_overlap()[:, found.at(SHOWN[-1])]
    return values | {f"ABO/{name}": float(value) for name, value in zip(found.classes, best)}


def table(found: Mapping[str, Coverage]) -> str:
    """The scores of each file as text."""
    all_scores = {name: scores(one) for name, one in found.items()}
    titles = {
        "recall50": "recall at IoU 0.5",
        "recall70": "recall at IoU 0.7",
        "AR": "average recall",
        "MABO": "mean average best overlap",
    }
    parts = [grid(("", "an image"), [(name, values["proposals"]) for name, values in all_scores.items()])]
    for key, title in titles.items():
        rows = [(name, *(values[f"{key}@{count}"] for count in SHOWN)) for name, values in all_scores.items()]
        parts.append(grid((title, *map(str, SHOWN)), rows))
    classes = next(iter(found.values())).classes
    rows = [(name, *(values[f"ABO/{name}"] for values in all_scores.values())) for name in classes]
    parts.append(grid((f"average best overlap, {SHOWN[-1]}", *all_scores), rows))
    return "\n" + "\n\n".join(parts)


def main(arguments: list[str]) -> None:
    """Compares from a command line."""
    _, recipe, (first, *rest) = named_recipe(arguments, program=PROGRAM)
    default = Arguments((), recipe.data)
    args = tyro.cli(Arguments, default=default, args=rest, prog=f"{PROGRAM} {first}")
    with one_sentence():
        source = args.data.source(args.part)
        found = compare(args.files, source)
        say_problems(source)
        print(table(found))
        out = args.out or args.files[0].parent / f"proposal_recall_{args.part}.png"
        title = f"{source.name}: {len(next(iter(found.values())).labels)} objects in {len(source)} images"
        plot_recall(found, out, title=title)
        results = {name: finite(scores(one)) for name, one in found.items()}
        write_text(out.with_suffix(".json"), json.dumps(results, indent=2) + "\n")
        say(f"written: {out}, {out.with_suffix('.json')}")


if __name__ == "__main__":
    main(sys.argv[1:])
