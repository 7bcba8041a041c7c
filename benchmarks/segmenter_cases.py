"""Models of semantic segmentation of both libraries: the same weights and images, inference and a step of training.

Inference ends with the logits of every pixel, as torchvision's does. The auxiliary head is for training alone: it is
taken out of torchvision's model for inference, where it would be computed for nothing.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
import torchvision

from benchmarks.cases import Case, Comparison, Compiled, Setting, checked, compared, waited
from benchmarks.detectors import Size, compute_dtype
from benchmarks.random_weights import randomize_segmenter
from benchmarks.training import OurStep, TheirStep
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.pretrained import from_torchvision, model
from segjax.types import IGNORE, Batch, Instances, Model

CLASSES = 21
QUICK = (64, 96)


class Segmenter(NamedTuple):
    """A line of the table."""

    name: str
    """In both libraries."""
    auxiliary: bool = True
    predict: Size = (480, 640)
    """(height, width) of the image of inference."""
    channels_last: bool = False
    """Whether both are also compared with torchvision in that layout."""
    train: Size = (256, 320)
    """Of the four images of a training step."""

    def model(self, setting: Setting, **options: Any) -> Model:
        """segjax's."""
        return model(self.name, classes=CLASSES, dtype=compute_dtype(setting), **options)


SEGMENTERS = {
    "fcn": Segmenter("fcn_resnet50", channels_last=True),
    "deeplabv3": Segmenter("deeplabv3_resnet50", channels_last=True),
    "deeplabv3_mobilenet": Segmenter("deeplabv3_mobilenet_v3_large"),
    "lraspp": Segmenter("lraspp_mobilenet_v3_large", auxiliary=False),
}


class Images(NamedTuple):
    """A batch for each library."""

    batch: Batch
    images: torch.Tensor
    """Normalised, [b, 3, h, w]: what torchvision's models take. Ours normalise themselves."""
    labels: torch.Tensor


def make_images(setting: Setting, count: int, size: Size, *, channels_last: bool = False) -> Images:
    """Coloured patches and noise, floats in 0..1, with patches of labels, some without a class; sides are multiples
    of 32. torch's images have the layout that is asked for."""
    rng = np.random.default_rng(0)
    cells = (count, size[0] // 32, size[1] // 32)
    patches = rng.uniform(0, 1, (*cells, 3)).repeat(32, 1).repeat(32, 2)
    pixels = np.clip(patches + rng.normal(0, 0.1, patches.shape), 0, 1).astype(np.float32)
    labels = rng.choice([*range(CLASSES), IGNORE], cells).repeat(32, 1).repeat(32, 2).astype(np.uint8)
    none = Instances(np.zeros((count, 0, 4), np.float32), np.zeros((count, 0), np.int32), np.zeros((count, 0), bool))
    sizes = np.tile(np.array([size], np.int32), (count, 1))
    batch = Batch(pixels, sizes, none, np.arange(count, dtype=np.int32), label_map=labels)
    normalised = (pixels - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    images = torch.from_numpy(normalised).permute(0, 3, 1, 2).to(setting.device)
    images = images.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return Images(jax.device_put(batch), images, torch.from_numpy(labels.astype(np.int64)).to(setting.device))


def torch_segmenter(segmenter: Segmenter, setting: Setting, *, channels_last: bool = False) -> Any:
    """torchvision's, with random weights that make it do something (`benchmarks.random_weights`)."""
    made = _make(segmenter)
    made.load_state_dict(random_weights(segmenter))
    made = made.to(setting.device)
    return made.to(memory_format=torch.channels_last) if channels_last else made


def _make(segmenter: Segmenter) -> Any:
    options = {"aux_loss": True} if segmenter.auxiliary else {}
    make = getattr(torchvision.models.segmentation, segmenter.name)
    return make(weights=None, weights_backbone=None, num_classes=CLASSES, **options)


@functools.cache
def random_weights(segmenter: Segmenter) -> dict[str, torch.Tensor]:
    """A state dict for both."""
    torch.manual_seed(0)
    made = _make(segmenter).eval()
    with torch.no_grad():
        randomize_segmenter(made, make_images(Setting("cpu", "float32"), 2, (96, 128)).images)
    return made.state_dict()


def predict_case(segmenter: Segmenter, setting: Setting, quick: bool, *, channels_last: bool) -> Comparison:
    """One image, from floats to the logits of its pixels."""
    data = make_images(setting, 1, QUICK if quick else segmenter.predict, channels_last=channels_last)
    theirs = torch_segmenter(segmenter, setting, channels_last=channels_last).eval()
    theirs.aux_classifier = None

    def predict() -> Any:
        with torch.inference_mode(), setting.autocast:
            return theirs(data.images)["out"]

    variables = from_torchvision(segmenter.name, random_weights(segmenter))
    args = (variables, data.batch.images, data.batch.sizes)
    compiled = Compiled(jax.jit(lambda *args: segmenter.model(setting).predict(*args).logits), *args)
    run = waited(setting, predict)
    logits, expected = compiled(*args), run().movedim(1, -1)
    same = np.asarray(logits).argmax(-1) == expected.float().cpu().numpy().argmax(-1)
    facts = {"pixels of the same class": float(same.mean())}
    return compared(compiled, args, run, {"logits": checked("predict", logits, expected, setting.tolerance)}, facts)


def their_losses(network: Any, data: Images) -> dict[str, torch.Tensor]:
    """What torchvision's reference training adds up, under our names."""
    entropy = functools.partial(torch.nn.functional.cross_entropy, ignore_index=IGNORE)
    terms = {name: entropy(logits, data.labels) for name, logits in network(data.images).items()}
    return {"cross_entropy": terms["out"]} | ({"auxiliary": 0.5 * terms["aux"]} if "aux" in terms else {})


def train_case(segmenter: Segmenter, setting: Setting, quick: bool, *, count: int, channels_last: bool) -> Comparison:
    """A step of SGD with momentum and weight decay: forward, backward, update, norms by the batch, dropout on."""
    differences = compare_losses(segmenter, setting)
    size = QUICK if quick else segmenter.train
    data = make_images(setting, 2 if quick else count, size, channels_last=channels_last)
    theirs = torch_segmenter(segmenter, setting, channels_last=channels_last).train()
    their_step = TheirStep(theirs, lambda: their_losses(theirs, data), setting)
    variables = from_torchvision(segmenter.name, random_weights(segmenter))
    ours, run = OurStep(segmenter.model(setting), variables, data.batch), waited(setting, their_step)
    facts = {"trained parameters": their_step.trained, "loss": ours(), "loss of torchvision": run()}
    if ours.trained != their_step.trained:
        raise ValueError(f"segjax trains {ours.trained} numbers, torchvision {their_step.trained}.")
    return Comparison(ours, run, differences, facts, ours.seconds, ours.temporary_mib)


def compare_losses(segmenter: Segmenter, setting: Setting) -> dict[str, float]:
    """The losses of small images in training, without dropout: nothing is random."""
    data = make_images(setting, 2, QUICK)
    theirs = torch_segmenter(segmenter, setting).train()
    for module in theirs.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    options = {"dropout": (0.0, 0.0)} if segmenter.auxiliary else {}
    variables = from_torchvision(segmenter.name, random_weights(segmenter))
    losses, _ = jax.jit(segmenter.model(setting, **options).losses)(variables, data.batch, jax.random.key(0))
    with torch.no_grad(), setting.autocast:
        expected = their_losses(theirs, data)
    if set(losses) != set(expected):
        raise ValueError(f"segjax has the losses {', '.join(losses)}, torchvision {', '.join(expected)}.")
    return {name: checked(name, loss, expected[name], setting.tolerance) for name, loss in losses.items()}


def segmenter_cases() -> list[Case]:
    """All cases of this file: of each line of the table inference, then training."""
    cases = []
    for title, segmenter in SEGMENTERS.items():
        for channels_last in (False, True) if segmenter.channels_last else (False,):
            layout = "_channels_last" if channels_last else ""
            height, width = segmenter.predict
            build = functools.partial(predict_case, segmenter, channels_last=channels_last)
            cases.append(Case(f"{title}_predict_1x{height}x{width}{layout}", build, neural=True))
            height, width = segmenter.train
            build = functools.partial(train_case, segmenter, count=4, channels_last=channels_last)
            cases.append(Case(f"{title}_train_4x{height}x{width}{layout}", build, neural=True))
    return cases
