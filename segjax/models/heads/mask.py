"""The mask head of Mask R-CNN (He et al. 2017): which part of a box is the object, one mask a class."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segjax.losses import masked_sum, safe_divide, sigmoid_cross_entropy
from segjax.models.heads.roi import PoolSettings, RoIs, region_convolutions
from segjax.models.layers.conv import Conv, kaiming
from segjax.models.layers.norms import NormName
from segjax.models.layers.upconv import UpConv
from segjax.ops.masks import crop_targets
from segjax.types import Detections, Instances, Losses


class MaskNetwork(nn.Module):
    """Convolutions over a region's map, upsampled by two, then a mask for each class (figure 4, right)."""

    classes: int
    convolutions: tuple[int, ...] = (256, 256, 256, 256)
    """Channels of each 3x3 convolution."""
    norm: NormName | None = None
    """Behind each convolution."""
    upsampled: int = 256
    """Channels of the transposed convolution."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b s h w c"], *, valid: Bool[Array, "b s"], train: bool = False
    ) -> Float[Array, "b s h2 w2 classes"]:
        """Logits of twice the side of `features`, float32."""
        x = region_convolutions(features, self.convolutions, norm=self.norm, valid=valid, train=train, dtype=self.dtype)
        x = x.reshape(-1, *x.shape[2:])
        x = nn.relu(UpConv(self.upsampled, 2, 2, dtype=self.dtype, name="upsample")(x))
        x = Conv(self.classes, 1, bias=True, kernel_init=kaiming, dtype=self.dtype, name="logits")(x)
        return x.reshape(*valid.shape, *x.shape[1:]).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class MaskHead:
    """Adds `masks` to detections, trained on `Instances.masks`. A `segjax.models.heads.roi.RoIHead`."""

    network: nn.Module
    """To logits [b, s, m, m, classes]: a `MaskNetwork`, or another."""
    pool: PoolSettings = PoolSettings(size=14)
    positives_only: bool = True
    size: int = 28
    """m, the side of the network's masks."""

    def targets(
        self, rois: RoIs, instances: Instances, size: Int[Array, "2"]
    ) -> tuple[Float[Array, "s m m"], Int[Array, "s"], Bool[Array, "s"]]:
        """Each region's part of its object's mask, its class, and whether it is to be learnt.

        The mask is resampled by RoIAlign, as torchvision does; an object whose mask is empty teaches nothing.
        """
        if instances.masks is None:
            raise ValueError("the mask head is trained on masks, and the batch has none: ask the data for masks.")
        masks = crop_targets(instances.masks, rois.target, rois.boxes, size=self.size, height=size[0], width=size[1])
        present = jnp.any(instances.masks > 0, axis=(1, 2))
        return masks, instances.labels[rois.target], rois.positive & present[rois.target]

    def losses(self, outputs: Float[Array, "b s m m classes"], targets: tuple, rois: RoIs) -> Losses:
        """Binary cross-entropy of the mask of the object's class alone, the mean over cells and regions (section 3)."""
        masks, labels, learnt = targets
        own = jnp.take_along_axis(outputs, labels[..., None, None, None], axis=-1)[..., 0]
        # A region's cells lie between 0 and 1 where the mask's edge runs through them.
        error = sigmoid_cross_entropy(own, masks).mean((-2, -1))
        return {"mask": safe_divide(masked_sum(error, learnt), jnp.sum(learnt, dtype=jnp.float32))}

    def decode(
        self, outputs: Float[Array, "n m m classes"], detections: Detections, size: Int[Array, "2"]
    ) -> Detections:
        """The probabilities of each detection's own class."""
        del size
        own = jnp.take_along_axis(outputs, detections.labels[:, None, None, None], axis=-1)[..., 0]
        masks = jnp.where(detections.valid[:, None, None], jax.nn.sigmoid(own), 0.0)
        return detections.replace(masks=masks)
