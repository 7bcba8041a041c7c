"""torchvision's two-stage detectors with random weights, the same detectors in segjax, and a step of training of both.

Their last layers are scaled until scores spread over (0.05, 0.99) and boxes move by a good part of their size, and
sampling takes everything there is, so that nothing is left to chance.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision

from benchmarks.random_weights import randomize_detector
from benchmarks.single_shot_detectors import Pyramid
from benchmarks.two_stage_detectors import TwoStage
from segjax.models.heads.roi import SamplingSettings
from segjax.models.heads.rpn import RPNSettings
from segjax.models.trunk import Trunk
from segjax.models.two_stage import RegionProposals, Regions, two_stage
from segjax.pretrained import from_torchvision, model
from segjax.pretrained.convert import apply_rules
from segjax.pretrained.models import DETECTORS
from segjax.types import Batch, Detections, Losses, Model, Variables
from tests.parity.conftest import (
    CLASSES,
    Objects,
    as_batch,
    as_targets,
    as_torch,
    random_images,
    random_objects,
)

EVERY_ANCHOR = 12_288
"""More than a 192 x 256 image has: with a positive fraction of 1, sampling takes every anchor on both sides."""
SAMPLING = SamplingSettings(samples=128, positive_fraction=0.125)
"""Room for 16 positive regions and for all others that 100 proposals and the objects can be."""
CANDIDATES, PROPOSALS = (200, 300), (100, 120)
BACKGROUND = 2.0
"""What the background's logit has more than the others' mean: most regions show it, so a few dozen boxes of an image
pass, and not always as many as there is room for."""
OBJECTNESS = {"fasterrcnn_mobilenet_v3_large_fpn": -5.0, "fasterrcnn_mobilenet_v3_large_320_fpn": -5.0}
"""Mean of the logits of the anchors where a score threshold is to leave some out; 0 for the others."""
ONE_CLASS = ("keypointrcnn_resnet50_fpn",)
LOSSES = {theirs: ours for family in (TwoStage, Pyramid) for ours, theirs in family.losses.items()}
TINY = 1e-6
Size = tuple[int, int]


class Pair(NamedTuple):
    """One detector twice."""

    name: str
    classes: int
    torch: Any
    model: Model
    variables: Variables
    rpn: RPNSettings


class Step(NamedTuple):
    """What a step of training sees and leaves, under our names."""

    losses: Losses
    gradients: Variables
    """Of the sum of the losses' logarithms by the parameters. Logarithms, because `rpn_box` is a thousandth of `class`
    here and would not be seen in a plain sum."""
    statistics: Variables
    """The running ones after it, of the norms that are trained; variances biased."""


def made_of(name: str, **options: Any) -> tuple[Trunk, RegionProposals, Regions]:
    """What `pretrained.model` makes the detector of."""
    with mock.patch("segjax.models.faster_rcnn.two_stage", wraps=two_stage) as spy:
        model(name, **options)
    return spy.call_args.args


def make_pair(name: str, *, detections: int = 22) -> Pair:
    """The detector called `name` in torchvision and, through its state dict, in segjax.

    Both have their own defaults in all but the counts of anchors, proposals, regions and detections.
    """
    classes = 1 if name in ONE_CLASS else CLASSES
    _, rpn, regions = made_of(name, classes=classes)
    settings = dataclasses.replace(
        rpn.settings,
        samples=EVERY_ANCHOR,
        positive_fraction=1.0,
        candidates=tuple(map(min, CANDIDATES, rpn.settings.candidates)),
        proposals=tuple(map(min, PROPOSALS, rpn.settings.proposals)),
    )
    box = regions.heads["box"]
    box = dataclasses.replace(box, settings=dataclasses.replace(box.settings, detections=detections))
    detector = random_torch_model(name, classes, settings, detections)
    ours = model(name, classes=classes, rpn=settings, sampling=SAMPLING, heads={"box": box})
    return Pair(name, classes, detector, ours, from_torchvision(name, detector.state_dict()), settings)


def random_torch_model(name: str, classes: int, rpn: RPNSettings, detections: int) -> Any:
    """torchvision's detector as described at the top of this file, in evaluation mode."""
    torch.manual_seed(0)
    counts = {
        "rpn_batch_size_per_image": rpn.samples,
        "rpn_positive_fraction": rpn.positive_fraction,
        "rpn_pre_nms_top_n_train": rpn.candidates[0],
        "rpn_pre_nms_top_n_test": rpn.candidates[1],
        "rpn_post_nms_top_n_train": rpn.proposals[0],
        "rpn_post_nms_top_n_test": rpn.proposals[1],
        "box_batch_size_per_image": SAMPLING.samples,
        "box_positive_fraction": SAMPLING.positive_fraction,
        "box_detections_per_img": detections,
    }
    make = getattr(torchvision.models.detection, name)
    detector = make(weights=None, weights_backbone=None, num_classes=classes + 1, **counts).eval()
    # Images reach both networks at their own size.
    detector.transform.resize = lambda image, target=None: (image, target)
    with torch.no_grad():
        images = as_torch(random_images(np.random.default_rng(7), *4 * [(160, 192)]))
        randomize_detector(detector, images, background=BACKGROUND, objectness=OBJECTNESS.get(name, 0.0))
    return detector


def torch_step(pair: Any, images: list[np.ndarray], objects: list[Objects]) -> Step:
    """A step of torchvision's detector: norms by the batch where ours are trained, as constants elsewhere."""
    detector, trained, counts = pair.torch, "batch_stats" in pair.variables, {}
    norms = {name: m for name, m in detector.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    count = lambda name: lambda _, x, __: counts.update({name: x[0].numel() // x[0].shape[1]})  # noqa: E731
    hooks = [norm.register_forward_hook(count(name)) for name, norm in norms.items()]
    detector.train()
    for norm in norms.values():
        norm.train(trained)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    detector.zero_grad()
    losses = torch_losses(detector, images, objects)
    sum(torch.log(loss + TINY) for loss in losses.values()).backward()
    gradients = {name: p.grad.clone() for name, p in detector.named_parameters()}
    momenta = {name: norm.momentum for name, norm in norms.items()}
    after = biased(before, detector.state_dict(), counts, momenta) if trained else {}
    detector.load_state_dict(before)
    detector.eval()
    for hook in hooks:
        hook.remove()
    rules = DETECTORS[pair.name].rules()
    return Step(
        {LOSSES[name]: value.item() for name, value in losses.items()},
        apply_rules(rules, gradients, name="the gradients")["params"],
        apply_rules(rules, after, name="the statistics").get("batch_stats", {}),
    )


def torch_losses(detector: Any, images: list[np.ndarray], objects: list[Objects]) -> dict[str, torch.Tensor]:
    """torchvision's, of a step in which chance decides nothing."""
    if not hasattr(detector, "roi_heads"):
        return detector(as_torch(images), as_targets(objects))
    with mock.patch.object(detector.roi_heads, "subsample", wraps=detector.roi_heads.subsample) as subsample:
        losses = detector(as_torch(images), as_targets(objects))
    positives = [int((labels > 0).sum()) for labels in subsample.call_args.args[0]]
    assert max(positives) <= SAMPLING.positives, "with more than there is room for, chance would decide"
    return losses


def biased(
    before: dict[str, Any], after: dict[str, Any], counts: dict[str, int], momenta: dict[str, float]
) -> dict[str, Any]:
    """The state after a step if its running variances had moved towards the batch's biased ones, as ours do.

    `momenta` are torch's, of the norms.
    """
    after = {name: value.clone() for name, value in after.items()}
    for name, count in counts.items():
        old = (1 - momenta[name]) * before[f"{name}.running_var"]
        after[f"{name}.running_var"] = old + (after[f"{name}.running_var"] - old) * (count - 1) / count
    return after


def jax_step(pair: Pair) -> Any:
    """A function (variables, batch) -> `Step`, compiled at its first call."""

    def total(params: Variables, variables: Variables, batch: Batch):
        losses, new = pair.model.losses({**variables, "params": params}, batch, jax.random.key(0))
        return sum(jnp.log(loss + TINY) for loss in losses.values()), (losses, new.get("batch_stats", {}))

    compiled = jax.jit(jax.grad(total, has_aux=True))

    def step(variables: Variables, batch: Batch) -> Step:
        gradients, (losses, statistics) = compiled(variables["params"], variables, jax.tree.map(jnp.asarray, batch))
        return Step(losses, gradients, statistics)

    return step


def relative_errors(ours: Any, theirs: Any) -> dict[str, float]:
    """By path, the norm of the difference over the norm; where theirs vanishes, as a box head's gradients do without
    objects, the largest of ours."""

    def error(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        scale = np.linalg.norm(b)
        return float(np.linalg.norm(a - b) / scale) if scale else float(np.abs(a).max())

    errors = jax.tree.map(error, ours, theirs)
    return {jax.tree_util.keystr(path): e for path, e in jax.tree_util.tree_leaves_with_path(errors)}


def both_predictions(pair: Any, sizes: Sequence[Size], *, batch: Any = as_batch) -> tuple[list[Any], list[Any]]:
    """(ours, theirs): the detections of images of these sizes, by the names that torchvision has for them.

    `batch` makes ours of images and objects, here and below.
    """
    images = random_images(np.random.default_rng(1), *sizes)
    inputs = batch(images)
    ours = images_of(jax.device_get(jax.jit(pair.model.predict)(pair.variables, inputs.images, inputs.sizes)))
    with torch.no_grad():
        return ours, [{k: v.numpy() for k, v in image.items()} for image in pair.torch(as_torch(images))]


def both_steps(
    pair: Any, sizes: Sequence[Size], counts: Sequence[int], *, classes: int = CLASSES, batch: Any = as_batch
) -> tuple[Step, Step]:
    """(ours, theirs): a step of training on images of these sizes, with so many objects each."""
    rng = np.random.default_rng(2)
    images = random_images(rng, *sizes)
    objects = [random_objects(rng, size, count, classes=classes) for size, count in zip(sizes, counts, strict=True)]
    return jax_step(pair)(pair.variables, batch(images, objects)), torch_step(pair, images, objects)


def images_of(detections: Detections) -> list[dict[str, np.ndarray]]:
    """The fields of the valid detections of each image, as torchvision has them; labels are 0-based."""
    fields = {name: value for name, value in vars(detections).items() if value is not None and name != "extra"}
    kept = np.asarray(fields.pop("valid"))
    return [{name: np.asarray(value[i])[valid] for name, value in fields.items()} for i, valid in enumerate(kept)]


def check_boxes(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], *, classes: int = 5) -> None:
    """The detections of an image are torchvision's, and of that many classes."""
    partner, scores = partners(found, expected), found["scores"]
    assert len(set(found["labels"])) >= classes
    assert scores.max() < 0.999 and scores.max() - scores.min() > 0.2, "scores must spread"
    assert (np.diff(scores) <= 0).all()
    # Pixels, of boxes that are up to 300 wide.
    np.testing.assert_allclose(found["boxes"], expected["boxes"][partner], atol=1e-2)
    np.testing.assert_allclose(scores, expected["scores"][partner], atol=1e-4)


def check_losses(found: Step, expected: Step, *, least: float) -> None:
    """Both steps have the same losses, each larger than `least`."""
    assert set(found.losses) == set(expected.losses)
    for name, value in expected.losses.items():
        assert value > least
        np.testing.assert_allclose(found.losses[name], value, rtol=1e-5, err_msg=name)


def check_statistics(pair: Any, found: Step, expected: Step) -> None:
    """Both steps leave the same running statistics, where there are any."""
    errors = relative_errors(found.statistics, expected.statistics)
    assert bool(errors) == ("batch_stats" in pair.variables)
    for path, error in errors.items():
        assert error < 1e-5, path


def partners(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> np.ndarray:
    """Which of torchvision's detections in an image each of ours is: the nearest of its class, each just once."""
    assert len(found["boxes"]) == len(expected["boxes"])
    distance = np.abs(found["boxes"][:, None] - expected["boxes"][None]).max(-1)
    other_class = found["labels"][:, None] != expected["labels"][None] - 1
    partner = np.where(other_class, np.inf, distance).argmin(1)
    assert sorted(partner) == list(range(len(partner)))
    return partner
