"""Classification and localization: what the main object of an image is, and where."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.localizer import LocalizerHead, LocalizerNetwork
from segjax.models.layers.alexnet import POOLED, AlexNet, AlexNetClassifier
from segjax.models.layers.fpn import NoNeck
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.single_shot import single_shot
from segjax.models.trunk import Trunk
from segjax.types import Model


def localizer(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    hidden: tuple[int, ...] = (4096, 4096),
    dropout: float = 0.5,
    pooled: int = POOLED,
    per_class: bool = False,
    guesses: int = 1,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """A backbone, fully connected layers on its map, and on these a class and a box. The defaults are AlexNet's.

    Images may have any size: the map is brought to `pooled` x `pooled` positions before the fully connected layers.

    Args:
      classes: number of classes. There is no background: an image is taken to have an object.
      backbone: a module from normalised images to one map; AlexNet by default.
      hidden: widths of the hidden layers that class and box share.
      dropout: share of the inputs of each hidden layer left out in training.
      pooled: positions along each side of the map that the first of them sees.
      per_class: whether each class has a box of its own, of which the predicted class's is given, or one serves all.
      guesses: detections an image, of its most probable classes; 5 in ILSVRC's localization task.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of the convolutions and matrix products of what is made here; boxes, losses and scores are float32 always.

    Returns:
      A `Model` with the losses `class` and `box`, of the largest object of each image, and as predictions `Detections`
      of `guesses` rows, all valid.

    Raises:
      ValueError: no class, or fewer classes than guesses; no guess, no hidden layer, or no position.
    """
    for name, value in (("classes", classes), ("guesses", guesses), ("pooled", pooled)):
        if value < 1:
            raise ValueError(f"{name} is {value}; classification with localization needs at least one.")
    if guesses > classes:
        raise ValueError(f"guesses is {guesses}, and there are {classes} classes: of each there is one guess at most.")
    if not hidden:
        raise ValueError("hidden is empty: class and box are made of the features of at least one hidden layer.")
    backbone = AlexNet(dtype=dtype) if backbone is None else backbone
    layers = AlexNetClassifier(None, tuple(hidden), dropout, pooled, dtype)
    head = LocalizerHead(LocalizerNetwork(layers, classes, per_class, dtype), guesses)
    return single_shot(Trunk(backbone, NoNeck(), mean, std, dtype), head)
