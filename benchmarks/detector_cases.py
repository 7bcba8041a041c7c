"""Detectors of both libraries: the same weights, the same images, inference and a step of training.

Inference ends where torchvision's does: boxes, scores and classes, joints in pixels, and masks laid over the image as
probabilities of every pixel. segjax's models give masks in the frame of their boxes, so its program here is `predict`
followed by `segjax.ops.masks.paste`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.cases import Case, Comparison, Compiled, Setting, as_numpy, checked, compared, waited
from benchmarks.detectors import DETECTORS, Detector, Size, boxes_among_proposals, make_images, torch_detector
from benchmarks.training import OurStep, TheirStep
from segjax.models.heads.roi import SamplingSettings
from segjax.ops.masks import paste
from segjax.types import Detections

QUICK = (192, 256)
EVERYTHING = 16_384
"""More anchors than an image of `QUICK` pixels has."""
FEW = SamplingSettings(samples=128, positive_fraction=0.25)
"""Room for all of 100 proposals and the objects; 32 of them may be positive, and fewer are."""
LOSSES = {
    "rpn_objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "class": "loss_classifier",
    "box": "loss_box_reg",
    "mask": "loss_mask",
    "keypoint": "loss_keypoint",
}


def predict_case(detector: Detector, setting: Setting, quick: bool, *, size: Size, channels_last: bool) -> Comparison:
    """One image, from floats to what torchvision's detector returns."""
    size = QUICK if quick else size
    data = make_images(detector, setting, 1, size)
    theirs = torch_detector(detector, setting, channels_last=channels_last).eval()

    def predict() -> Any:
        with torch.inference_mode(), setting.autocast:
            return theirs(data.images)

    args = (detector.variables(), data.batch.images, data.batch.sizes)
    compiled = Compiled(jax.jit(pasting(detector.model(setting).predict)), *args)
    run = waited(setting, predict)
    (ours, masks), (expected,) = compiled(*args), run()
    facts = {"detections": int(ours.valid.sum()), "detections of torchvision": len(expected["boxes"])}
    facts |= count_regions(theirs, predict)
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


def count_regions(detector: Any, run: Any) -> dict[str, int]:
    """How many regions reach each of torchvision's heads in `run()`. segjax's see a fixed number, the most there may
    be: `SamplingSettings` and `BoxSettings.detections` say which."""
    heads = {"proposals": "box_head", "regions of masks": "mask_head", "regions of joints": "keypoint_head"}
    modules = {fact: getattr(detector.roi_heads, head, None) for fact, head in heads.items()}
    seen: dict[str, int] = {}
    count = lambda fact: lambda _, inputs, __: seen.update({fact: len(inputs[0])})  # noqa: E731
    hooks = [module.register_forward_hook(count(fact)) for fact, module in modules.items() if module is not None]
    run()
    for hook in hooks:
        hook.remove()
    return seen


def train_case(detector: Detector, setting: Setting, quick: bool, *, count: int, size: Size) -> Comparison:
    """A step of SGD with momentum and weight decay: forward, backward, update; the first layers frozen."""
    count, size = (1, QUICK) if quick else (count, size)
    differences = compare_losses(detector, setting)
    theirs = torch_detector(detector, setting).train()
    boxes = boxes_among_proposals(theirs, make_images(detector, setting, count, size))
    data = make_images(detector, setting, count, size, boxes=boxes)
    options = {"sampling": FEW} if quick else {}
    if quick:
        sample_few(theirs)
    their_step = TheirStep(theirs, lambda: theirs(data.images, data.targets), setting)
    frozen = tuple(detector.frozen.values())
    ours = OurStep(detector.model(setting, **options), detector.variables(), data.batch, frozen=frozen)
    run = waited(setting, their_step)
    facts = {"trained parameters": their_step.trained, "loss": ours(), "loss of torchvision": run()}
    if ours.trained != facts["trained parameters"] - background_mask(theirs):
        raise ValueError(f"segjax trains {ours.trained} numbers, torchvision {facts['trained parameters']}.")
    facts |= count_regions(theirs, their_step)
    return Comparison(ours, run, differences, facts, ours.seconds, ours.temporary_mib)


def background_mask(network: Any) -> int:
    """Parameters of torchvision's mask of the background, which no loss reaches and segjax has not."""
    return network.roi_heads.mask_predictor.mask_fcn_logits.in_channels + 1 if network.roi_heads.has_mask() else 0


def sample_few(detector: Any) -> None:
    """Has torchvision's heads trained on the regions of `FEW`."""
    sampler = detector.roi_heads.fg_bg_sampler
    sampler.batch_size_per_image, sampler.positive_fraction = FEW.samples, FEW.positive_fraction


def compare_losses(detector: Detector, setting: Setting) -> dict[str, float]:
    """The losses of a small image, all of its anchors and 100 proposals sampled on both sides: nothing is random."""
    data = make_images(detector, setting, 1, QUICK)
    theirs = torch_detector(detector, setting).train()
    sample_few(theirs)
    anchors = theirs.rpn.fg_bg_sampler
    anchors.batch_size_per_image, anchors.positive_fraction = EVERYTHING, 1.0
    theirs.rpn._pre_nms_top_n["training"], theirs.rpn._post_nms_top_n["training"] = 200, 100
    everything = {"samples": EVERYTHING, "positive_fraction": 1.0}
    rpn = dataclasses.replace(detector.rpn, candidates=(200, 200), proposals=(100, 100), **everything)
    network = detector.model(setting, rpn=rpn, sampling=FEW)
    losses, _ = jax.jit(network.losses)(detector.variables(), data.batch, jax.random.key(0))
    with torch.no_grad(), setting.autocast:
        expected = theirs(data.images, data.targets)
    if len(losses) != len(expected):
        raise ValueError(f"segjax has the losses {', '.join(losses)}, torchvision {', '.join(expected)}.")
    return {name: checked(name, loss, expected[LOSSES[name]], setting.tolerance) for name, loss in losses.items()}


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
            build = functools.partial(train_case, detector, count=2, size=size)
            cases.append(Case(f"{title}_train_2x{size[0]}x{size[1]}", build, neural=True))
    return cases
