"""R-CNN and SPP-net trained in stages (Girshick et al. 2014; He et al. 2014), each in a folder or file of the run.

    pretrain     an R-CNN on the backbone, in the place of ImageNet; only where `model.pretrain_steps` says so
    finetune     a run of `steps` that learns to classify regions by a softmax
    features     regions.npz, features/: what the network sees in every object and proposal of the training images
    svm          svm.npz: a linear SVM of each class, on the hidden features
    ridge        ridge.npz: a box regression of each class, on the pooled features, which still know where things are
    detector     the run's own folder: the finished detector, with its scores

Each stage can be stopped and continued; `stages.json` says how long each took, and what was kept on disk.
"""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from configs.base import Recipe, Start
from configs.rcnn import RCNN, RegionClassifier
from segjax.data.proposals import ProposalFile, open_proposals
from segjax.data.source import Source
from segjax.fitting.linear_svm import Miner, SVMs, feature_scale
from segjax.fitting.ridge import ridge
from segjax.ops.boxes import encode
from segjax.types import Batch, Detections
from train.evaluate import jit_predict, restore_run
from train.loop import stop_signals, train
from train.recipes import load_run
from train.region_cache import (
    Features,
    Regions,
    make_regions,
    mebibytes,
    read_features,
    store_regions,
    write_features,
)
from train.runtime import say, say_problems
from train.stages import Stages
from train.step import data_mesh

Stopped = Callable[[], bool]


def train_region_classifier(name: str, recipe: Recipe) -> dict[str, float] | None:
    """Trains `recipe` in stages. Returns the final scores, None where it was stopped.

    Raises:
      ValueError: the recipe names no proposals of the training and the validation images.
    """
    if not all(recipe.data.proposals[:2]):
        raise ValueError(
            f"{name} classifies proposals, and data.proposals names none: write them with python -m train.propose, or "
            "by selective search, and give the files of train and val."
        )
    stages, runs = Stages(recipe.run), region_runs(recipe)
    stages.check(*runs.values())
    if "pretrain" in runs and not pretrained(name, recipe, runs["pretrain"], stages):
        return None
    if not stages.train("finetune", name, runs["finetune"]):
        return None
    with stop_signals() as stop:
        done = solved(recipe, runs["finetune"], stages, lambda: stop.asked)
    if not done or stop.asked:
        say("stopped; the same command continues from there")
        return None
    say(f"\nthe detector of all stages: {recipe.run}")
    with stages.timed("detector"):
        return train(name, runs["detector"])


def region_runs(recipe: Recipe) -> dict[str, Recipe]:
    """The stages that are runs."""
    run, tuned = recipe.run, finetuning(recipe)
    start = Start(runs=(tuned.run,), arrays=(run / "svm.npz", run / "ridge.npz"))
    first = {"pretrain": pretraining(recipe)} if recipe.model.pretrain_steps else {}
    return {**first, "finetune": tuned, "detector": dataclasses.replace(recipe, start=start, steps=0)}


def pretraining(recipe: Recipe) -> Recipe:
    """The run that trains the backbone as that of an R-CNN."""
    model = recipe.model
    replaced = {"pool": model.pretrain_pool, "sampling": model.pretrain_sampling, "pretrain_steps": 0}
    model = RCNN.of(model, says="softmax", **replaced)
    optim = dataclasses.replace(recipe.optim, freeze=())
    steps, run = recipe.model.pretrain_steps, recipe.run / "pretrain"
    return dataclasses.replace(recipe, model=model, optim=optim, steps=steps, run=run)


def pretrained(name: str, recipe: Recipe, step: Recipe, stages: Stages) -> bool:
    """Trains `step`, and writes its backbone's weights to a file. False where it was stopped."""
    if not stages.train("pretrain", name, step):
        return False
    file = step.run / "backbone.npz"
    if file.exists():
        return True
    state = restore_run(step, load_run(step.run).vocabulary, data_mesh(recipe.devices))[1]
    found = {
        collection: {"backbone": parts["box"]["backbone"]}
        for collection, parts in state.variables.items()
        if "backbone" in parts.get("box", {})
    }
    write_arrays(file, recipe.model.adapted(found))
    return True


def finetuning(recipe: Recipe) -> Recipe:
    """The run that trains the network."""
    start = Start(arrays=(recipe.run / "pretrain" / "backbone.npz",)) if recipe.model.pretrain_steps else recipe.start
    model = dataclasses.replace(recipe.model, says="softmax")
    return dataclasses.replace(recipe, model=model, start=start, run=recipe.run / "finetune")


def write_arrays(file: pathlib.Path, variables: dict) -> None:
    """Variables as an archive that a recipe can start from (`Start.arrays`), whole or not at all."""
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    arrays = {"/".join(str(part.key) for part in path): np.asarray(value) for path, value in leaves}
    partial = file.with_name(f".{file.name}")
    with partial.open("wb") as stream:
        np.savez(stream, **arrays)
    partial.replace(file)


def solved(recipe: Recipe, tuned: Recipe, stages: Stages, stopped: Stopped) -> bool:
    """The stages that are not training by gradient. False where they were stopped.

    Raises:
      ValueError: the data or its proposals are not those that the stages were begun with, or there is a detector of
        files that are no longer there.
    """
    run, model = recipe.run, recipe.model
    folder, svm, ridge_file = files = [run / name for name in ("features", "svm.npz", "ridge.npz")]
    # To the vocabulary of the run, which the data may have left since.
    source = recipe.data.source("train", load_run(tuned.run).vocabulary.classes, fields=model.fields)
    proposals = open_proposals(recipe.data.root / recipe.data.proposals[0], source)
    regions = make_regions(source, proposals, recipe.data.proposal_count)
    stages.same("features", regions.digest())
    if all(file.exists() for file in files):
        say(f"features, svm and ridge are finished: {run}")
        return True
    if (run / "checkpoints").exists():
        raise ValueError(f"{run}/checkpoints holds a detector of files that are gone or to be made anew: remove it.")
    rows = np.flatnonzero((regions.overlap > model.ridge.overlap) & ~regions.is_object)
    with stages.timed("features"):
        if not folder.exists():
            stored = store_regions(regions, source, run / "regions.npz")
            if not featured(folder, tuned, source, stored, regions, rows, stopped):
                return False
    features, size = read_features(folder, rows), mebibytes(folder, run / "regions.npz")
    stages.write(disk_mib=round(size, 1))
    say(f"{len(features.hidden)} regions of {regions.images} images; {size:.0f} MiB on disk")
    if unread := regions.images - int(features.seen.sum()):
        say(f"{unread} images could not be read, and nothing is learnt of them")
        say_problems(source)  # which, unless an earlier call of the command read them
    if not svm.exists():
        with stages.timed("svm"):
            svms = mined(run / "svm.partial.npz", model, source.classes, regions, features, stopped)
            if svms is None:
                return False
            write_arrays(svm, {"params": {"box": {"svm": {"kernel": svms.kernel, "bias": svms.bias}}}})
            (run / "svm.partial.npz").unlink()
    if not ridge_file.exists():
        with stages.timed("ridge"):
            found = regressed(model, source.classes, regions, features, stopped)
            if found is None:
                return False
            write_arrays(ridge_file, {"params": {"box": {"ridge": dict(zip(("kernel", "bias"), found))}}})
    return True


def featured(
    folder: pathlib.Path,
    tuned: Recipe,
    source: Source,
    stored: ProposalFile,
    regions: Regions,
    rows: np.ndarray,
    stopped: Stopped,
) -> bool:
    """Computes the features of all regions by the network that was fine-tuned. False where it was stopped."""
    mesh = data_mesh(tuned.devices)
    _, state = restore_run(tuned, load_run(tuned.run).vocabulary, mesh)
    model = dataclasses.replace(tuned.model, says="features").build(len(source.classes))
    variables, compiled = state.variables, jit_predict(model, mesh)

    def predict(batch: Batch) -> Detections:
        return compiled(variables, batch)

    data = dataclasses.replace(tuned.data, proposal_count=max(stored.largest, 1))
    batches = data.evaluation(source, batch_size=tuned.eval_batch_size, proposals=stored)
    cache = tuned.model.cache
    return write_features(folder, regions, rows, batches, predict, dtype=cache, stopped=stopped)


class Interrupted(Exception):
    """A fit was ended by a stop."""


def mined(
    file: pathlib.Path,
    model: RegionClassifier,
    classes: tuple[str, ...],
    regions: Regions,
    features: Features,
    stopped: Stopped,
) -> SVMs | None:
    """The SVMs of all classes; `file` keeps them between passes. None where it was stopped."""
    seen = np.repeat(features.seen, np.diff(regions.starts))
    positives = [np.flatnonzero(regions.is_object & (regions.label == c) & seen) for c in range(len(classes))]
    if absent := [name for name, rows in zip(classes, positives) if not len(rows)]:
        say(f"no object of the class {', '.join(absent)} in the training images: its SVM never says so")
    negative = (regions.classes < model.svm.overlap) & seen[:, None]
    scale = feature_scale(features.hidden, model.svm.norm)

    def watch() -> None:
        bar.update()
        if stopped():
            raise Interrupted

    miner = Miner(features.hidden, positives, negative, model.svm, scale=scale, watch=watch)
    try:
        with tqdm(total=len(classes), desc="svm", leave=False) as bar:
            svms = _read_svms(file) if file.exists() else miner.first()
        while not svms.finished(model.svm):
            _write_svms(file, svms)
            with tqdm(total=miner.steps, desc=f"svm, pass {svms.passes + 1}", unit="block", leave=False) as bar:
                svms = miner.mined(svms)
            total, short = sum(map(len, svms.negatives)), f"; {svms.short} fits stopped short" if svms.short else ""
            say(f"mining, pass {svms.passes}: {svms.found} new hard negatives, {total} kept{short}")
    except Interrupted:
        return None
    _write_svms(file, svms)
    return svms


def _write_svms(file: pathlib.Path, svms: SVMs) -> None:
    negatives = {f"negatives/{c}": rows for c, rows in enumerate(svms.negatives)}
    counts = {"passes": np.int64(svms.passes), "found": np.int64(svms.found)}
    write_arrays(file, {"kernel": svms.kernel, "bias": svms.bias, **counts, **negatives})


def _read_svms(file: pathlib.Path) -> SVMs:
    with np.load(file, allow_pickle=False) as arrays:
        negatives = tuple(arrays[f"negatives/{c}"] for c in range(len(arrays["bias"])))
        return SVMs(arrays["kernel"], arrays["bias"], negatives, int(arrays["passes"]), int(arrays["found"]))


def regressed(
    model: RegionClassifier, classes: tuple[str, ...], regions: Regions, features: Features, stopped: Stopped
) -> tuple[np.ndarray, np.ndarray] | None:
    """(kernel [f, k * 4], bias [k * 4]) of the box regression of each class; of a class without examples, 0.

    None where it was stopped.
    """
    seen = np.repeat(features.seen, np.diff(regions.starts))[features.rows]
    label, scale = regions.label[features.rows], feature_scale(features.pooled, model.ridge.norm)
    targets, boxes = (jnp.asarray(x[features.rows]) for x in (regions.target, regions.boxes))
    deltas = np.asarray(encode(targets, boxes, weights=model.box.weights))
    kernel = np.zeros((features.pooled.shape[1], len(classes), 4), np.float32)
    bias = np.zeros((len(classes), 4), np.float32)
    for c, name in enumerate(tqdm(classes, desc="ridge", unit="class", leave=False)):
        if stopped():
            return None
        chosen = np.flatnonzero((label == c) & seen)
        if not len(chosen):
            say(f"no proposal overlaps a {name} by more than {model.ridge.overlap}: its boxes stay as proposed")
            continue
        options = {"scale": scale, "regularization": model.ridge.regularization}
        found = ridge(features.pooled, deltas[chosen], rows=chosen, **options)
        kernel[:, c], bias[c] = found[0] * scale, found[1]
    return kernel.reshape(len(kernel), -1), bias.reshape(-1)
