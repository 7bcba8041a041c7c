"""Detectors of both libraries: the same weights, the same images, inference and a step of training.

Inference ends where torchvision's does: boxes, scores and classes, joints in pixels, and masks laid over the image as
probabilities of every pixel. segjax's models give masks in the frame of their boxes, so its program here is `predict`
followed by `segjax.ops.masks.paste`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.cases import Case, Comparison, Compiled, Setting, as_numpy, checked, compared, waited
from benchmarks.detectors import Detector, Size, make_images, torch_detector
from benchmarks.single_shot_detectors import SINGLE_SHOT
from benchmarks.training import OurStep, TheirStep
from benchmarks.two_stage_detectors import TWO_STAGE
from segjax.ops.masks import paste
from segjax.types import Detections

DETECTORS: dict[str, Detector] = {**TWO_STAGE, **SINGLE_SHOT}


def predict_case(detector: Detector, setting: Setting, quick: bool, *, size: Size, channels_last: bool) -> Comparison:
    """One image, from floats to what torchvision's detector returns."""
    data = make_images(detector, setting, 1, detector.quick if quick else size)
    theirs = torch_detector(detector, setting, channels_last=channels_last).eval()

    def predict() -> Any:
        with torch.inference_mode(), setting.autocast:
            return theirs(data.images)

    args = (detector.variables(), data.batch.images, data.batch.sizes)
    compiled = Compiled(jax.jit(pasting(detector.model(setting).predict)), *args)
    run = waited(setting, predict)
    (ours, masks), (expected,) = compiled(*args), run()
    facts = {"detections": int(ours.valid.sum()), "detections of torchvision": len(expected["boxes"])}
    facts |= detector.count_work(theirs, predict)
    return compared(compiled, args, run, compare_detections(setting, ours, masks, expected), facts)


def pasting(predict: Any) -> Any:
    """`predict`, and the masks of its detections over the image, None without."""

    def run(variables: Any, images: jax.Array, sizes: jax.Array) -> tuple[Detections, jax.Array | None]:
        found = predict(variables, images, sizes)
        if found.masks is None:
            return found, None
        return found, jax.vmap(functools.partial(paste, size=images.shape[1:3]))(found.masks, found.boxes)

    return run


def compare_detections(setting: Setting, ours: Detections, masks: Any, theirs: dict[str, Any]) -> dict[str, float]:
    """The share of torchvision's detections that segjax has not: same class, box and score; and how far masks and
    joints of the others differ. In low precision, scores.

    Not quite all can agree: float noise decides ties at the thresholds. `ValueError` where 5 in a hundred do not.
    """
    count = int(ours.valid.sum())
    if count == 0:
        raise ValueError("predict: nothing was detected, so nothing can be compared; nothing was timed.")
    if setting.precision != "float32":
        # Rounding changes the order of near-equal scores, and with it what NMS keeps: only the level can be compared.
        level = float(ours.scores[0].sum()) / max(float(theirs["scores"].sum()), 1e-6)
        return {"sum of scores": checked("predict", jnp.float32(level), torch.tensor(1.0), 0.2)}
    boxes, scores, labels = (as_numpy(theirs[name]) for name in ("boxes", "scores", "labels"))
    same = labels[:, None] - 1 == np.asarray(ours.labels[0, :count])
    same &= np.abs(scores[:, None] - np.asarray(ours.scores[0, :count])) < setting.tolerance
    apart = np.abs(boxes[:, None] - np.asarray(ours.boxes[0, :count])).max(-1)
    same &= apart < setting.tolerance * boxes.max()
    differences = {"detections without counterpart": share("detections", ~same.any(axis=1), 0.05)}
    theirs_at, ours_at = np.flatnonzero(same.any(axis=1)), same.argmax(axis=1)[same.any(axis=1)]
    if masks is not None:
        a, b = np.asarray(masks[0])[ours_at] >= 0.5, as_numpy(theirs["masks"])[theirs_at, 0] >= 0.5
        differences["mask pixels that differ"] = share("masks", (a != b)[a | b], 0.01)
    if ours.keypoints is not None:
        a, b = np.asarray(ours.keypoints[0])[ours_at, :, :2], as_numpy(theirs["keypoints"])[theirs_at, :, :2]
        differences["joints more than a pixel apart"] = share("keypoints", np.abs(a - b).max(-1) > 1, 0.05)
    return differences


def share(name: str, wrong: np.ndarray, tolerance: float) -> float:
    """How many of `wrong` are, 0..1; `ValueError` where more than `tolerance`."""
    return checked(name, jnp.float32(1 - wrong.mean()), torch.tensor(1.0), tolerance)


def train_case(detector: Detector, setting: Setting, quick: bool, *, size: Size) -> Comparison:
    """A step of SGD with momentum and weight decay: forward, backward, update; the first layers frozen."""
    count, size = (detector.few, detector.quick) if quick else (detector.count, size)
    differences = compare_losses(detector, setting)
    theirs = torch_detector(detector, setting).train()
    boxes = detector.place_objects(theirs, make_images(detector, setting, count, size))
    data = make_images(detector, setting, count, size, boxes=boxes)
    options = detector.sample_few(theirs) if quick else {}
    their_step = TheirStep(theirs, lambda: theirs(data.images, data.targets), setting)
    frozen = tuple(ours for _, ours in detector.frozen)
    ours = OurStep(detector.model(setting, **options), detector.variables(), data.batch, frozen=frozen)
    run = waited(setting, their_step)
    facts = {"trained parameters": their_step.trained, "loss": ours(), "loss of torchvision": run()}
    if ours.trained != facts["trained parameters"] - detector.background(theirs):
        raise ValueError(f"segjax trains {ours.trained} numbers, torchvision {facts['trained parameters']}.")
    facts |= detector.count_work(theirs, their_step)
    return Comparison(ours, run, differences, facts, ours.seconds, ours.temporary_mib)


def compare_losses(detector: Detector, setting: Setting) -> dict[str, float]:
    """The losses of small images in training, with nothing left to chance."""
    theirs = torch_detector(detector, setting).train()
    network = detector.model(setting, **detector.sample_all(theirs))
    boxes = detector.settle_objects(theirs, make_images(detector, setting, detector.few, detector.quick))
    data = make_images(detector, setting, detector.few, detector.quick, boxes=boxes)
    losses, _ = jax.jit(network.losses)(detector.variables(), data.batch, jax.random.key(0))
    with torch.no_grad(), setting.autocast:
        expected = theirs(data.images, data.targets)
    if len(losses) != len(expected):
        raise ValueError(f"segjax has the losses {', '.join(losses)}, torchvision {', '.join(expected)}.")
    names = detector.losses
    return {name: checked(name, loss, expected[names[name]], setting.tolerance) for name, loss in losses.items()}


def detector_cases() -> list[Case]:
    """All cases of this file: of each line of the table inference, then training."""
    cases = []
    for title, detector in DETECTORS.items():
        for size in detector.predict:
            for channels_last in (False, True) if detector.channels_last else (False,):
                name = f"{title}_predict_1x{size[0]}x{size[1]}{'_channels_last' if channels_last else ''}"
                build = functools.partial(predict_case, detector, size=size, channels_last=channels_last)
                cases.append(Case(name, build, neural=True))
        if size := detector.train:
            build = functools.partial(train_case, detector, size=size)
            cases.append(Case(f"{title}_train_{detector.count}x{size[0]}x{size[1]}", build, neural=True))
    return cases
