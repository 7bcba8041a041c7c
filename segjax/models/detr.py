"""DETR (Carion et al. 2020, "End-to-end object detection with transformers")."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from segjax.models.layers.conv import Conv
from segjax.models.layers.fpn import NoNeck
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD
from segjax.models.layers.resnet import ResNet
from segjax.models.layers.transformer import Transformer
from segjax.models.set_prediction import SetOutputs, SetSettings, set_prediction
from segjax.models.trunk import Trunk
from segjax.types import Model

torch_init = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""What torch draws the weights of its layers from."""


class DETRNetwork(nn.Module):
    """From one map to a set of predictions: a 1x1 convolution, a transformer, a class and a box for each query."""

    classes: int
    transformer: nn.Module
    """(map, what of it is valid, queries) -> what the queries know behind each layer: a `Transformer` or another."""
    queries: int = 100
    width: int = 256
    """Channels of tokens and queries."""
    dtype: DTypeLike = jnp.float32
    """Of the layers before the transformer and of the classes; those of the boxes are float32."""

    @nn.compact
    def __call__(
        self, features: Sequence[Float[Array, "b _ _ _"]], valid: Sequence[Bool[Array, "b _ _"]], *, train: bool = False
    ) -> SetOutputs:
        """The predictions [layers, b, queries, ...] of each decoder layer, in prediction of the last alone.

        Raises:
          ValueError: there are several maps, or the numbers of the transformer do not fit each other.
        """
        if len(features) != 1:
            raise ValueError(
                f"DETR sees one map, and the backbone gives {len(features)}: take one of its stages alone."
            )
        x = Conv(self.width, 1, bias=True, kernel_init=torch_init, dtype=self.dtype, name="input")(features[0])
        queries = self.param("queries", nn.initializers.normal(1.0), (self.queries, self.width), jnp.float32)
        x = self.transformer(x, valid[0], queries, train=train)
        x = x if train else x[-1:]
        logits = nn.Dense(self.classes + 1, kernel_init=torch_init, dtype=self.dtype, name="class")(x)
        # Shares of the image: bfloat16 would round them to a pixel and more of 1333.
        for i in range(2):
            x = nn.relu(nn.Dense(self.width, kernel_init=torch_init, dtype=jnp.float32, name=f"box{i}")(x))
        boxes = nn.Dense(4, kernel_init=torch_init, dtype=jnp.float32, name="box2")(x)
        return SetOutputs(logits.astype(jnp.float32), nn.sigmoid(boxes))


def detr(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    network: nn.Module | None = None,
    settings: SetSettings = SetSettings(),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """DETR. The defaults are those of its authors' `detr_resnet50`.

    Args:
      classes: number of classes, "no object" not counted. The authors count COCO's category ids from 0, which makes 91.
      backbone: a module from normalised images to one map; ResNet-50's last, with frozen batch norm, by default.
      network: from that map to `SetOutputs`; a `DETRNetwork` by default.
      settings: matching, losses and decoding.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of the convolutions and matrix products of what is made here; boxes, losses and scores are float32 always.

    Returns:
      A `Model` with the losses of `set_prediction`, and `Detections` as predictions.

    Raises:
      ValueError: no class; when it is traced, numbers of the transformer that do not fit each other.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; a detector needs at least one, 'no object' not counted.")
    backbone = ResNet(depth=50, stages=(4,), dtype=dtype) if backbone is None else backbone
    network = DETRNetwork(classes, Transformer(dtype=dtype), dtype=dtype) if network is None else network
    return set_prediction(Trunk(backbone, NoNeck(), mean, std, dtype), network, settings)
