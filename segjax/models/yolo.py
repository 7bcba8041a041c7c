"""YOLO (Redmon et al. 2016): a grid of predictions made of a whole image by fully connected layers."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from segjax.models.heads.yolo import YOLOHead, YOLONetwork, YOLOSettings
from segjax.models.layers.darknet import DETECTION, Darknet, Layer
from segjax.models.layers.fpn import NoNeck
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.layers.norms import NormName
from segjax.models.single_shot import single_shot
from segjax.models.trunk import Trunk
from segjax.types import Model


def yolo_v1(
    classes: int,
    *,
    grid: int = 7,
    boxes: int = 2,
    backbone: nn.Module | None = None,
    convolutions: tuple[Layer, ...] = DETECTION,
    hidden: tuple[int, ...] = (4096,),
    dropout: float = 0.5,
    norm: NormName | None = None,
    settings: YOLOSettings = YOLOSettings(),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """YOLO in its first version. The defaults are the paper's, for images of 448x448 pixels.

    The fully connected layers fix the size of the images: all batches, in training and prediction, are of the (padded)
    size that the variables were made with. Boxes are relative to that padded image.

    Args:
      classes: number of classes.
      grid: cells along each side of the image; each finds one object at most.
      boxes: predictors of each cell.
      backbone: a module from normalised images to one map, with a `strides` attribute; by default the paper's twenty
        pre-trained convolutions, with `norm`. `Darknet("fast")`, with no further `convolutions`, is Fast YOLO's, and a
        `ResNet` with one of its `stages` is another.
      convolutions: behind the backbone; the paper's last four, the second of which halves the map.
      hidden: widths of the fully connected layers before the last.
      dropout: share of the last hidden layer's units left out in training.
      norm: behind each convolution of what is made here. The paper has none; from random weights it takes one to learn.
      settings: the numbers of the loss and of decoding.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of the convolutions and matrix products of what is made here; boxes, losses and scores are float32 always.

    Returns:
      A `Model` with the losses `center`, `size`, `object`, `no_object` and `class`, and `Detections` as predictions.

    Raises:
      ValueError: no class, cell or predictor; when it is traced, images of another size than the variables'.
    """
    for name, value in (("classes", classes), ("grid", grid), ("boxes", boxes)):
        if value < 1:
            raise ValueError(f"{name} is {value}; YOLO needs at least one.")
    backbone = Darknet("yolo", norm, dtype=dtype) if backbone is None else backbone
    network = YOLONetwork(classes, grid, boxes, convolutions, hidden, dropout, norm, dtype)
    return single_shot(Trunk(backbone, NoNeck(), mean, std, dtype), YOLOHead(network, grid, settings))
