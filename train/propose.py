"""The proposals of a trained region proposal network, written to a file that Fast R-CNN reads.

    python -m train.propose runs/rpn --part train --out proposals/train.npz

The run may be of a network alone or of a whole Faster R-CNN. The format is that of `segjax.data.proposals`.
"""

import dataclasses
import pathlib
import sys

import numpy as np
import tyro

from configs.base import Part
from configs.detectors import RegionDetector
from segjax.data.proposals import write_proposals
from segjax.evaluation.evaluator import DetectionCollector
from train.evaluate import jit_predict, restore_run, run_evaluators
from train.recipes import load_run
from train.runtime import one_sentence, say, say_problems, setup
from train.step import data_mesh


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Writes the proposals of the newest checkpoint of a run for every image of a part of its data."""

    run: tyro.conf.Positional[pathlib.Path]
    """The run's folder."""
    part: Part = "train"
    """The part of the data set."""
    out: pathlib.Path | None = None
    """The file; RUN/proposals_PART.npz by default."""
    count: int = 2000
    """The most proposals of an image."""


def propose(run: pathlib.Path, part: Part, *, out: pathlib.Path, count: int) -> int:
    """Writes the file and returns the number of proposals. `ValueError` for a run without a proposal network."""
    _, recipe, vocabulary = load_run(run)
    model = recipe.model
    if not isinstance(model, RegionDetector) or model.system == "fast_rcnn":
        kind = "Fast R-CNN" if isinstance(model, RegionDetector) else type(model).__name__
        raise ValueError(f"{run} is of a {kind}, which makes no proposals; name the run of a network that does.")
    mesh = data_mesh(recipe.devices)
    variables = restore_run(recipe, vocabulary, mesh)[1].variables
    candidates = max(*recipe.model.rpn.candidates, count)
    rpn = dataclasses.replace(recipe.model.rpn, candidates=(candidates,) * 2, proposals=(count, count))
    model = dataclasses.replace(recipe.model, system="rpn", rpn=rpn).build(1)
    data = dataclasses.replace(recipe.data, agnostic=True, proposals=("", "", ""))
    source = data.source(part)
    found = DetectionCollector(source, classes=source.classes)
    batches = data.evaluation(source, batch_size=recipe.eval_batch_size)
    say(f"proposals for {len(source)} images of {source.name} from {run}")
    run_evaluators(jit_predict(model, mesh), variables, batches, [found], mesh)
    say_problems(source)  # an image that cannot be read has no proposals
    rows = found.collected()
    order = np.argsort(rows.samples, kind="stable")  # within an image they stay best first
    ends = np.searchsorted(rows.samples[order], np.arange(1, len(source)))
    boxes, scores = np.split(rows.boxes[order], ends), np.split(rows.scores[order], ends)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_proposals(out, [source.info(i).image_id for i in range(len(source))], boxes, scores)
    say(f"{len(rows.scores)} proposals, {len(rows.scores) / len(source):.0f} an image: {out}")
    return len(rows.scores)


def main(arguments: list[str]) -> None:
    """Proposes from a command line."""
    setup()
    args = tyro.cli(Arguments, args=arguments, prog="python -m train.propose")
    with one_sentence():
        propose(args.run, args.part, out=args.out or args.run / f"proposals_{args.part}.npz", count=args.count)


if __name__ == "__main__":
    main(sys.argv[1:])
