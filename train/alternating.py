"""Faster R-CNN trained in four steps (Ren et al. 2016, section 3.2), each an ordinary run of the trainer.

1. The region proposal network, from the recipe's start.
2. Fast R-CNN on its proposals, from the same start: the two share nothing yet.
3. The proposal network again, on the trunk of step 2, which stays fixed.
4. Fast R-CNN's heads again, on the same fixed trunk and the new proposals.

The run's own folder then holds the detector made of steps 3 and 4. Each step is a run in a folder within it and can be
stopped and continued like any other; what is finished is not done again. `stages.json` says how long each took.
"""

import dataclasses
import pathlib

import jax

from configs.base import Part, Recipe, Start
from configs.detectors import RegionDetector
from train import evaluate as evaluation
from train.loop import train
from train.propose import propose
from train.runtime import say
from train.stages import Stages, finished

PARTS: tuple[Part, Part] = ("train", "val")


def alternate(name: str, recipe: Recipe) -> dict[str, float] | None:
    """Trains `recipe` in four steps of `recipe.steps` each. Returns the final scores, None where it was stopped."""
    if not isinstance(recipe.model, RegionDetector):
        raise ValueError(f"alternating training is of Faster R-CNN, and {name} is a {type(recipe.model).__name__}.")
    if getattr(recipe.model, "norm", None) == "batch":
        raise ValueError(
            "alternating training keeps the trunk fixed, and batch norm goes on changing: choose frozen_batch or group "
            "with --model.norm."
        )
    stages, runs = Stages(recipe.run), alternating_runs(recipe)
    *steps, detector = runs.values()
    stages.check(*steps, detector)
    for number, step in enumerate(steps, start=1):
        say(f"\nstep {number} of 4: {step.run}")
        if step.model.system == "fast_rcnn" and not finished(step):
            with stages.timed(step.run.name):
                propose_for(step, steps[number - 2].run, recipe.model.rpn.proposals)
        if not stages.train(step.run.name, name, step):
            return None
    say(f"\nthe detector of steps 3 and 4: {recipe.run}")
    with stages.timed("detector"):
        return train(name, detector)


def alternating_runs(recipe: Recipe) -> dict[str, Recipe]:
    """The four steps by the names of their folders, and the detector."""
    shared, names = shared_parts(recipe), ("step1_rpn", "step2_fast_rcnn", "step3_rpn", "step4_fast_rcnn")
    rpn1, fast1, rpn2, fast2 = (recipe.run / name for name in names)
    steps = (
        proposal_step(recipe, rpn1),
        region_step(recipe, fast1, rpn1),
        proposal_step(fixed(recipe, shared, rpn1, fast1), rpn2),
        region_step(fixed(recipe, shared, fast1), fast2, rpn2),
    )
    detector = dataclasses.replace(recipe, alternating=False, start=Start(runs=(rpn2, fast2)), steps=0)
    return {**dict(zip(names, steps)), "detector": detector}


def proposal_step(recipe: Recipe, run: pathlib.Path) -> Recipe:
    """The proposal network alone, which is judged as a detector of one class."""
    model = dataclasses.replace(recipe.model, system="rpn")
    data = dataclasses.replace(recipe.data, agnostic=True)
    return dataclasses.replace(recipe, alternating=False, model=model, data=data, run=run)


def region_step(recipe: Recipe, run: pathlib.Path, rpn: pathlib.Path) -> Recipe:
    """Fast R-CNN on the proposals of the run `rpn`."""
    model = dataclasses.replace(recipe.model, system="fast_rcnn")
    files = tuple(str((rpn / f"proposals_{part}.npz").absolute()) for part in PARTS)
    count = max(recipe.model.rpn.proposals)
    data = dataclasses.replace(recipe.data, proposals=(*files, ""), proposal_count=count)
    return dataclasses.replace(recipe, alternating=False, model=model, data=data, run=run)


def fixed(recipe: Recipe, shared: tuple[str, ...], *runs: pathlib.Path) -> Recipe:
    """The recipe from the weights of `runs`, with the shared parts not trained."""
    optim = dataclasses.replace(recipe.optim, freeze=shared)
    return dataclasses.replace(recipe, optim=optim, start=Start(runs=runs))


def shared_parts(recipe: Recipe) -> tuple[str, ...]:
    """The parts of the trunk that have parameters."""
    model = dataclasses.replace(recipe.model, system="rpn").build(1)
    batch = evaluation.empty_batch(*recipe.data.buckets[0])
    params = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]
    return tuple(part for part in ("backbone", "neck") if part in params)


def propose_for(step: Recipe, rpn: pathlib.Path, counts: tuple[int, int]) -> None:
    """Writes the proposals that a step reads, unless they are there; `counts`: of an image in training, and after."""
    for part, count, file in zip(PARTS, counts, step.data.proposals):
        if not pathlib.Path(file).exists():
            propose(rpn, part, out=pathlib.Path(file), count=count)
