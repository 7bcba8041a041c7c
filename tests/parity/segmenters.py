"""torchvision's models of semantic segmentation with random weights, ours with the same, and a step of training.

Norms have the statistics of images, somewhat off, and the last layers are scaled until logits spread.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import torchvision

from benchmarks.random_weights import randomize_segmenter
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.pretrained import from_torchvision, model
from segjax.pretrained.convert import apply_rules
from segjax.pretrained.models import SEGMENTERS
from segjax.types import IGNORE, Batch, Model, Variables
from tests.parity.conftest import as_batch, as_torch, random_images
from tests.parity.detectors import Step, biased

CLASSES = 6
WITHOUT_AUXILIARY = ("lraspp_mobilenet_v3_large",)


class Pair(NamedTuple):
    """One model twice."""

    name: str
    torch: Any
    model: Model
    variables: Variables


def torch_input(images: list[np.ndarray]) -> Any:
    """Images of one size as torchvision's models take them: normalised, [b, 3, h, w]."""
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return torch.stack([(image - mean) / std for image in as_torch(images)])


def make_pair(name: str) -> Pair:
    """The model called `name` in torchvision and, through its state dict, here; both with their own defaults.

    Dropout is off in training on both sides, its rate 0: the two libraries draw other numbers.
    """
    torch.manual_seed(0)
    options = {} if name in WITHOUT_AUXILIARY else {"aux_loss": True}
    make = getattr(torchvision.models.segmentation, name)
    theirs = make(weights=None, weights_backbone=None, num_classes=CLASSES, **options).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        randomize_segmenter(theirs, torch_input(random_images(np.random.default_rng(7), *2 * [(64, 96)])))
    options = {} if name in WITHOUT_AUXILIARY else {"dropout": (0.0, 0.0)}
    return Pair(name, theirs, model(name, classes=CLASSES, **options), from_torchvision(name, theirs.state_dict()))


def labelled_batch(rng: np.random.Generator, count: int, size: tuple[int, int]) -> Batch:
    """Images, of sides that are multiples of 32, and label maps of coarse patches, some of them without a class."""
    labels = rng.choice([*range(CLASSES), IGNORE], (count, size[0] // 16, size[1] // 16))
    labels = labels.repeat(16, 1).repeat(16, 2).astype(np.uint8)
    return as_batch(random_images(rng, *count * [size])).replace(label_map=labels)


def torch_step(pair: Pair, batch: Batch) -> Step:
    """A step of torchvision's reference training: cross-entropy, and half of the auxiliary head's."""
    network, counts = pair.torch, {}
    norms = {name: m for name, m in network.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    count = lambda name: lambda _, x, __: counts.update({name: x[0].numel() // x[0].shape[1]})  # noqa: E731
    hooks = [norm.register_forward_hook(count(name)) for name, norm in norms.items()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train().zero_grad()
    labels = torch.from_numpy(batch.label_map.astype(np.int64))
    outputs = network(torch_input(list(batch.images)))
    loss = {name: torch.nn.functional.cross_entropy(x, labels, ignore_index=IGNORE) for name, x in outputs.items()}
    terms = {"cross_entropy": loss["out"]} | ({"auxiliary": 0.5 * loss["aux"]} if "aux" in loss else {})
    sum(terms.values()).backward()
    gradients = {name: p.grad.clone() for name, p in network.named_parameters()}
    after = biased(before, network.state_dict(), counts, {name: norm.momentum for name, norm in norms.items()})
    network.load_state_dict(before)
    network.eval()
    for hook in hooks:
        hook.remove()
    rules = SEGMENTERS[pair.name].rules("batch")
    return Step(
        {name: value.item() for name, value in terms.items()},
        apply_rules(rules, gradients, name="the gradients")["params"],
        apply_rules(rules, after, name="the state after it")["batch_stats"],
    )


def jax_step(pair: Pair, batch: Batch) -> Step:
    """The same of ours, as one program."""

    @jax.jit
    def step(variables: Variables, batch: Batch):
        def total(params):
            losses, new = pair.model.losses({**variables, "params": params}, batch, jax.random.key(0))
            return sum(losses.values()), (losses, new["batch_stats"])

        return jax.grad(total, has_aux=True)(variables["params"])

    gradients, (losses, statistics) = step(pair.variables, batch)
    return Step(losses, gradients, statistics)
