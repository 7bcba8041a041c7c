"""Faster R-CNN R50-FPN of both libraries: the same weights, the same images, a training step and inference.

Random weights as they are drawn would give every box the same score, and then NMS and the choice of detections have
next to nothing to do. So the norms get the statistics of the images, and the last layers are scaled until scores
spread, boxes move and a few hundred (proposal, class) pairs pass the score threshold, as with trained weights.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torchvision

from benchmarks.cases import Case, Comparison, Compiled, Setting, as_numpy, checked, waited
from benchmarks.ops_cases import proposal_boxes
from segjax.models.heads.box import BoxSettings
from segjax.models.heads.rpn import RPNSettings
from segjax.pretrained import from_torchvision, model
from segjax.types import Batch, Instances, Variables
from train.state import TrainState, split
from train.step import data_mesh, make_step

NAME = "fasterrcnn_resnet50_fpn"
CLASSES = 90
CAPACITY, OBJECTS = 32, 8
FROZEN = ("backbone/stem", "backbone/layer1")
"""What torchvision freezes by default when it starts from trained weights (`trainable_backbone_layers=3`)."""
LEARNING_RATE, MOMENTUM, DECAY = 1e-6, 0.9, 1e-4
"""The rate is so small that random weights stay what they are over the repeats: the work is the same in each."""
EVERYTHING = 16_384
"""More anchors than a 192 x 256 image has."""


class Images(NamedTuple):
    """A batch for each library."""

    batch: Batch
    images: list[torch.Tensor]
    targets: list[dict[str, torch.Tensor]]


def make_images(setting: Setting, count: int, height: int, width: int) -> Images:
    """Coloured patches and noise, floats in 0..1, with `OBJECTS` boxes each; sides are multiples of 32."""
    rng = np.random.default_rng(0)
    patches = rng.uniform(0, 1, (count, height // 32, width // 32, 3)).repeat(32, 1).repeat(32, 2)
    pixels = np.clip(patches + rng.normal(0, 0.1, patches.shape), 0, 1).astype(np.float32)
    boxes = np.zeros((count, CAPACITY, 4), np.float32)
    boxes[:, :OBJECTS] = [proposal_boxes(rng, OBJECTS, height, width) for _ in range(count)]
    labels = rng.integers(0, CLASSES, (count, CAPACITY)).astype(np.int32)
    valid = np.broadcast_to(np.arange(CAPACITY) < OBJECTS, (count, CAPACITY))
    sizes = np.tile(np.array([[height, width]], np.int32), (count, 1))
    batch = Batch(pixels, sizes, Instances(boxes, labels, valid), np.arange(count, dtype=np.int32))
    images = [torch.from_numpy(p).permute(2, 0, 1).contiguous().to(setting.device) for p in pixels]
    targets = [
        {
            "boxes": torch.from_numpy(b[:OBJECTS]).to(setting.device),
            "labels": torch.from_numpy(c[:OBJECTS].astype(np.int64) + 1).to(setting.device),
        }
        for b, c in zip(boxes, labels)
    ]
    return Images(jax.device_put(batch), images, targets)


def _spread(layer: Any, deviation: float, run: Any) -> None:
    """Scales a last layer so that each of its channels has mean 0 and this deviation during `run()`."""
    seen = []
    hook = layer.register_forward_hook(lambda _, __, out: seen.append(out.movedim(1, -1).reshape(-1, out.shape[1])))
    run()
    hook.remove()
    outputs = torch.cat(seen)
    scale = deviation / outputs.std(0)
    layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
    layer.bias.copy_(-(outputs.mean(0) - layer.bias) * scale)


def _keep_size(detector: Any) -> Any:
    """`detector`, taking images at the size they have: resizing is not what is compared."""
    detector.transform.resize = lambda image, target: (image, target)
    return detector


@functools.cache
def random_weights() -> dict[str, torch.Tensor]:
    """A state dict with which the detector behaves like a trained one, as the head of this file says."""
    torch.manual_seed(0)
    detector = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1
    )
    _keep_size(detector)
    images = make_images(Setting("cpu", "float32"), 1, 256, 320).images
    with torch.no_grad():
        norms = [m for m in detector.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        detector.backbone(detector.transform(images)[0].tensors)
        detector.eval()
        run = lambda: detector(images)  # noqa: E731
        predictor = detector.roi_heads.box_predictor
        for layer, deviation in (
            (detector.rpn.head.cls_logits, 1.5),
            (detector.rpn.head.bbox_pred, 0.3),
            (predictor.cls_score, 1.5),
            (predictor.bbox_pred, 1.0),
        ):
            _spread(layer, deviation, run)
        # Most proposals show background.
        predictor.cls_score.bias[0] += 8.0
    return detector.state_dict()


def torch_detector(setting: Setting, *, channels_last: bool = False) -> Any:
    """torchvision's detector with frozen norms and its first two stages frozen, as one fine-tunes it."""
    backbone = torchvision.models.resnet50(weights=None, norm_layer=torchvision.ops.FrozenBatchNorm2d)
    pyramid = torchvision.models.detection.backbone_utils._resnet_fpn_extractor(backbone, 3)
    detector = torchvision.models.detection.FasterRCNN(pyramid, num_classes=CLASSES + 1)
    detector.load_state_dict({k: v for k, v in random_weights().items() if not k.endswith("num_batches_tracked")})
    detector = _keep_size(detector).to(setting.device)
    return detector.to(memory_format=torch.channels_last) if channels_last else detector


def variables() -> Variables:
    """The same weights for segjax."""
    return from_torchvision(NAME, random_weights())


def _dtype(setting: Setting) -> Any:
    return jnp.bfloat16 if setting.precision == "bfloat16" else jnp.float32


def predict_case(setting: Setting, quick: bool, *, height: int, width: int, channels_last: bool) -> Comparison:
    """One image, from floats to detections."""
    height, width = (192, 256) if quick else (height, width)
    data = make_images(setting, 1, height, width)
    detector = torch_detector(setting, channels_last=channels_last).eval()

    def predict() -> Any:
        with torch.inference_mode(), setting.autocast:
            return detector(data.images)

    args = (variables(), data.batch.images, data.batch.sizes)
    compiled = Compiled(jax.jit(model(NAME, classes=CLASSES, dtype=_dtype(setting)).predict), *args)
    run = waited(setting, predict)
    ours, (theirs,) = compiled(*args), run()
    facts = {"detections": int(ours.valid.sum()), "detections of torchvision": len(theirs["boxes"])}
    return Comparison(
        lambda: compiled(*args),
        run,
        _compare_detections(setting, ours, theirs),
        facts | _count_proposals(detector, predict),
        compiled.seconds,
        compiled.temporary_mib,
    )


def _compare_detections(setting: Setting, ours: Any, theirs: dict[str, torch.Tensor]) -> dict[str, float]:
    """The share of torchvision's detections that segjax has not: same class, box and score. In low precision, scores.

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
    missing = float(1 - (same & (apart < setting.tolerance * boxes.max())).any(axis=1).mean())
    return {"detections without counterpart": checked("predict", jnp.float32(1 - missing), torch.tensor(1.0), 0.05)}


def _count_proposals(detector: Any, run: Any) -> dict[str, int]:
    """How many proposals reached the box head of torchvision in `run()`."""
    seen: list[int] = []
    hook = detector.roi_heads.box_head.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    run()
    hook.remove()
    return {"proposals": seen[0]}


def train_case(setting: Setting, quick: bool, *, count: int, height: int, width: int) -> Comparison:
    """A step of SGD with momentum and weight decay: forward, backward, update; stem and first stage frozen."""
    count, height, width = (1, 192, 256) if quick else (count, height, width)
    differences = _compare_losses(setting)
    data = make_images(setting, count, height, width)
    detector = torch_detector(setting).train()
    trained = [p for p in detector.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trained, LEARNING_RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def their_step() -> float:
        with setting.autocast:
            losses = detector(data.images, data.targets)
        sgd.zero_grad()
        loss = sum(losses.values())
        loss.backward()
        sgd.step()
        return float(loss.detach())

    optimizer = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(LEARNING_RATE, momentum=MOMENTUM))
    ours = OurStep(model(NAME, classes=CLASSES, dtype=_dtype(setting)), optimizer, data.batch)
    run = waited(setting, their_step)
    facts = {"trained parameters": sum(p.numel() for p in trained), "loss": ours(), "loss of torchvision": run()}
    if ours.trained != facts["trained parameters"]:
        raise ValueError(f"segjax trains {ours.trained} numbers, torchvision {facts['trained parameters']}.")
    facts |= _count_proposals(detector, their_step)
    return Comparison(ours, run, differences, facts, ours.seconds, ours.temporary_mib)


class OurStep:
    """The step of `python -m train`, carrying its state from call to call; a call returns the loss."""

    def __init__(self, network: Any, optimizer: Any, batch: Batch) -> None:
        everything = variables()
        params = everything.pop("params")
        trained, _ = split(params, FROZEN)
        self.trained = sum(p.size for p in trained.values())
        key = jax.random.key_data(jax.random.key(0))
        state = TrainState(jnp.int32(0), params, everything, jax.jit(optimizer.init)(trained), None, key)
        step = make_step(network, optimizer, mesh=data_mesh(1), frozen=FROZEN)
        self.state, self.batch = jax.tree.map(jnp.copy, state), batch
        compiled = Compiled(step._jitted, self.state, batch)
        self.program, self.seconds, self.temporary_mib = compiled, compiled.seconds, compiled.temporary_mib

    def __call__(self) -> float:
        self.state, metrics = self.program(self.state, self.batch)
        return float(metrics["loss"])


def _compare_losses(setting: Setting) -> dict[str, float]:
    """The four losses of a small image with every anchor and proposal sampled on both sides: nothing is random."""
    data = make_images(setting, 1, 192, 256)
    detector = torch_detector(setting).train()
    for sampler in (detector.rpn.fg_bg_sampler, detector.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image, sampler.positive_fraction = EVERYTHING, 1.0
    rpn = RPNSettings(samples=EVERYTHING, positive_fraction=1.0)
    box = BoxSettings(samples=rpn.proposals[0] + CAPACITY, positive_fraction=1.0)
    network = model(NAME, classes=CLASSES, rpn=rpn, box=box, dtype=_dtype(setting))
    losses, _ = jax.jit(network.losses)(variables(), data.batch, jax.random.key(0))
    with torch.no_grad(), setting.autocast:
        expected = detector(data.images, data.targets)
    names = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
    }
    return {ours: checked(ours, losses[ours], expected[theirs], setting.tolerance) for ours, theirs in names.items()}


def detector_cases() -> list[Case]:
    """All cases of this file."""
    cases = []
    for height, width in ((480, 640), (800, 1216)):
        for channels_last in (False, True):
            name = f"predict_1x{height}x{width}{'_channels_last' if channels_last else ''}"
            build = functools.partial(predict_case, height=height, width=width, channels_last=channels_last)
            cases.append(Case(name, build, neural=True))
    train = functools.partial(train_case, count=2, height=480, width=640)
    return [*cases, Case("train_2x480x640", train, neural=True)]
