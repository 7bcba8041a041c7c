"""Models of semantic segmentation put together: a backbone from images to features, heads from features to pixels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, UInt8
from numpy import ndarray

from segjax import losses as pixel_losses
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, normalize
from segjax.models.parts import Parts
from segjax.ops import resample
from segjax.types import Batch, Losses, Model, SegmentationMap, Variables

Logits = Float[Array, "b _ _ c"]


@dataclasses.dataclass(frozen=True)
class PixelLoss:
    """What the logits of pixels are trained by."""

    kind: Literal["cross_entropy", "focal", "hardest"] = "cross_entropy"
    """hardest: the cross-entropy of the share `keep` of the pixels that have most of it."""
    class_weights: tuple[float, ...] = ()
    """cross_entropy, focal: one a class, of the mean over pixels; empty: all alike."""
    gamma: float = 2.0
    """focal: how fast a pixel that is right loses its weight."""
    keep: float = 0.25
    """hardest: the share of pixels, over the whole batch, that counts."""
    dice: float = 0.0
    """Factor of a soft Dice loss beside it."""
    further: float = 0.5
    """Factor of the same loss on the outputs of auxiliary heads."""

    def terms(self, logits: Float[Array, "b h w c"], labels: UInt8[Array, "b h w"]) -> Losses:
        """The named terms, each over the labelled pixels of the batch. `ValueError` for weights that do not fit."""
        weights = self._weights(logits.shape[-1])
        if self.kind == "focal":
            losses = {"focal": pixel_losses.pixel_focal(logits, labels, gamma=self.gamma, class_weights=weights)}
        elif self.kind == "hardest":
            losses = {"cross_entropy": pixel_losses.hardest_pixels(logits, labels, keep=self.keep)}
        else:
            losses = {"cross_entropy": pixel_losses.pixel_cross_entropy(logits, labels, class_weights=weights)}
        if self.dice:
            losses["dice"] = self.dice * pixel_losses.dice(logits, labels)
        return losses

    def _weights(self, classes: int) -> Float[Array, " c"] | None:
        if not self.class_weights:
            return None
        if self.kind == "hardest":
            raise ValueError("loss.class_weights means nothing to the hardest pixels; leave it out.")
        if len(self.class_weights) != classes:
            raise ValueError(f"loss.class_weights has {len(self.class_weights)} values for {classes} classes.")
        return jnp.asarray(self.class_weights, jnp.float32)


def segmenter(
    classes: int,
    *,
    backbone: nn.Module,
    heads: Mapping[str, nn.Module],
    loss: PixelLoss = PixelLoss(),
    stride: int = 1,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """A model that gives every pixel a class.

    Args:
      classes: number of classes, a background among them if there is one.
      backbone: a module (normalised images [b h w 3], train=) -> features, which may be anything.
      heads: modules (features, train=) -> logits [b h2 w2 classes] at any resolution, by name. The first one gives the
        predictions; the others are auxiliary, trained beside it with the factor `loss.further`. A head may also give
        a list of logits, from its first guess to its last: all are trained, the last is the answer.
      loss: what the logits are trained by.
      stride: images are padded below and to the right to multiples of it, as some networks need, and the logits cut
        back; 1 takes images as they are.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of the images that the backbone sees; logits are float32 from the head on.

    Returns:
      A `Model` whose predictions are a `SegmentationMap`. All logits are brought to the images' size bilinearly, with
      half-pixel centres. Losses are those of `loss`; earlier guesses and auxiliary heads have theirs under
      "<term>_<number>" and "<head>" or "<head>_<term>".

    Raises:
      ValueError: fewer than two classes, more than a label map can hold, or no head; when it is traced, a head whose
        output is no logits of the classes.
    """
    if not 2 <= classes <= 255:
        raise ValueError(f"classes is {classes}; a label map has from 2 to 255, the background counted.")
    if stride < 1:
        raise ValueError(f"stride is {stride}; it must be at least 1.")
    if not heads:
        raise ValueError("heads is empty; name at least one, the one that predicts.")
    parts = Parts({"backbone": backbone, **heads})
    main = next(iter(heads))

    def prepare(images: Array, sizes: Array) -> Array:
        more = [(0, -side % stride) for side in images.shape[1:3]]
        return jnp.pad(normalize(images, sizes, mean=mean, std=std, dtype=dtype), ((0, 0), *more, (0, 0)))

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        features, variables = parts.init(key, {}, "backbone", prepare(batch.images, batch.sizes))
        for name in heads:
            _, variables = parts.init(key, variables, name, features)
        return variables

    def losses(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Losses, Variables]:
        labels = label_map_of(batch)
        features, variables = parts.train(key, variables, "backbone", prepare(batch.images, batch.sizes))
        total: Losses = {}
        for name in heads:
            output, variables = parts.train(key, variables, name, features)
            terms = _head_terms(name, output, labels, loss=loss, classes=classes, stride=stride)
            if name != main:
                terms = {_auxiliary(name, term): loss.further * value for term, value in terms.items()}
            total |= terms
        return total, variables

    def predict(
        variables: Variables, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"], sizes: Int[Array, "b 2"]
    ) -> SegmentationMap:
        features = parts(variables, "backbone", prepare(images, sizes))
        last = _guesses(main, parts(variables, main, features), classes)[-1]
        return SegmentationMap(to_image(last, images.shape[1:3], stride=stride))

    return Model(init, losses, predict)


def label_map_of(batch: Batch) -> UInt8[Array | ndarray, "b h w"]:
    """The label maps of a batch. `ValueError` where it has none."""
    if batch.label_map is None:
        raise ValueError("this model learns from label maps, and the batch has none: ask for fields=('label_map',).")
    return batch.label_map


def to_image(logits: Logits, size: Sequence[int], *, stride: int = 1) -> Float[Array, "b h w c"]:
    """Logits in float32 at `size`, (height, width) in pixels, of images padded to multiples of `stride`."""
    logits, padded = logits.astype(jnp.float32), tuple(-(-side // stride) * stride for side in size)
    if logits.shape[1:3] != padded:
        logits = resample.bilinear(logits, size=padded)
    return logits[:, : size[0], : size[1]]


def _auxiliary(name: str, term: str) -> str:
    return name if term in ("cross_entropy", "focal") else f"{name}_{term}"


def _head_terms(name: str, output: Any, labels: Array, *, loss: PixelLoss, classes: int, stride: int) -> Losses:
    """The loss terms of all of a head's guesses; those before the last are numbered from 1."""
    guesses = _guesses(name, output, classes)
    total: Losses = {}
    for number, logits in enumerate(guesses, start=1):
        terms = loss.terms(to_image(logits, labels.shape[1:3], stride=stride), labels)
        suffix = "" if number == len(guesses) else f"_{number}"
        total |= {f"{term}{suffix}": value for term, value in terms.items()}
    return total


def _guesses(name: str, output: Any, classes: int) -> Sequence[Logits]:
    guesses = output if isinstance(output, (list, tuple)) else [output]
    for logits in guesses:
        if getattr(logits, "ndim", 0) != 4 or logits.shape[-1] != classes:
            shape = getattr(logits, "shape", type(logits).__name__)
            raise ValueError(f"the head {name!r} gives {shape}; it must give logits [b h w {classes}].")
    return guesses
