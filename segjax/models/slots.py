"""Detection as regression: a fixed number of slots, each a class and a box, from fully connected layers.

The simplest detector there is (see Szegedy et al. 2013, "Deep neural networks for object detection", and Erhan et al.
2014, "Scalable object detection using deep neural networks", whose MultiBox is it with a matching). Its losses are
those of DETR, so that what matching does can be seen by itself.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from segjax.models.layers.conv import Conv
from segjax.models.layers.fpn import NoNeck
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.layers.plain import classifier_init
from segjax.models.layers.resnet import ResNet
from segjax.models.set_prediction import SetOutputs, SetSettings, set_prediction
from segjax.models.trunk import Trunk
from segjax.types import Model

SLOTS = SetSettings(matching="largest")


def grid_means(x: Float[Array, "b h w c"], valid: Bool[Array, "b h w"], grid: int) -> Float[Array, "b grid grid c"]:
    """The means of `grid` x `grid` equal parts of what is valid of a map, its upper left; parts may cut through cells.

    Whatever the sizes of an image and its padding, a part stands for the same share of the image.
    """

    def shares(count: Array, cells: int) -> Array:
        """[b grid cells]: what each cell counts in the mean of each part of the first `count` cells."""
        side = jnp.maximum(count, 1).astype(jnp.float32)[:, None, None] / grid
        start = side * jnp.arange(grid, dtype=jnp.float32)[None, :, None]
        cell = jnp.arange(cells, dtype=jnp.float32)[None, None]
        return jnp.maximum(jnp.minimum(cell + 1, start + side) - jnp.maximum(cell, start), 0.0) / side

    rows, columns = (
        shares(jnp.sum(valid[:, :, 0], axis=1), x.shape[1]),
        shares(jnp.sum(valid[:, 0], axis=1), x.shape[2]),
    )
    return jnp.einsum("bih,bhwc,bjw->bijc", rows.astype(x.dtype), x, columns.astype(x.dtype))


class SlotNetwork(nn.Module):
    """From one map to a set of predictions: means over a grid, hidden layers over all of it, a class and a box each."""

    classes: int
    slots: int = 20
    channels: int = 64
    """To which a 1x1 convolution brings the map."""
    grid: int = 5
    """Parts along each side of the image, of whose means the hidden layers are made."""
    hidden: tuple[int, ...] = (512, 512)
    """Widths of the fully connected layers before the last."""
    dropout: float = 0.0
    """Share of the last hidden layer's units left out in training."""
    dtype: DTypeLike = jnp.float32
    """Of all but the last layers."""

    @nn.compact
    def __call__(
        self, features: Sequence[Float[Array, "b _ _ _"]], valid: Sequence[Bool[Array, "b _ _"]], *, train: bool = False
    ) -> SetOutputs:
        """The predictions [1, b, slots, ...].

        Raises:
          ValueError: there are several maps.
        """
        if len(features) != 1:
            raise ValueError(
                f"slots see one map, and the backbone gives {len(features)}: take one of its stages alone."
            )
        x = nn.relu(Conv(self.channels, 1, bias=True, dtype=self.dtype, name="input")(features[0]))
        x = grid_means(x, valid[0], self.grid).reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden):
            x = nn.relu(
                nn.Dense(width, kernel_init=nn.initializers.he_normal(), dtype=self.dtype, name=f"hidden{i}")(x)
            )
        x = nn.Dropout(self.dropout, deterministic=not train)(x)

        def output(columns: int, name: str, init: Initializer) -> Array:
            # Boxes are shares of the image: bfloat16 would round them to a pixel and more of 1333.
            y = nn.Dense(self.slots * columns, kernel_init=init, dtype=jnp.float32, name=name)(x)
            return y.reshape(1, -1, self.slots, columns)

        logits = output(self.classes + 1, "class", classifier_init)
        return SetOutputs(logits, jax.nn.sigmoid(output(4, "box", nn.initializers.normal(0.01))))


def slot_detector(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    network: nn.Module | None = None,
    settings: SetSettings = SLOTS,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """A detector of a fixed number of slots, the first of which is the largest object's, by default.

    Args:
      classes: number of classes, "no object" not counted.
      backbone: a module from normalised images to one map; ResNet-50's last, with frozen batch norm, by default.
      network: from that map to `SetOutputs`; a `SlotNetwork` by default.
      settings: `matching` is the order of the objects, or "hungarian" for the assignment of least cost.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of the convolutions and matrix products of what is made here; boxes, losses and scores are float32 always.

    Returns:
      A `Model` with the losses `class`, `box` and `giou`, and `Detections` as predictions.

    Raises:
      ValueError: no class.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; a detector needs at least one, 'no object' not counted.")
    backbone = ResNet(depth=50, stages=(4,), dtype=dtype) if backbone is None else backbone
    network = SlotNetwork(classes, dtype=dtype) if network is None else network
    return set_prediction(Trunk(backbone, NoNeck(), mean, std, dtype), network, settings)
