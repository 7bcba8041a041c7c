"""The keypoint head of Mask R-CNN for poses (He et al. 2017, section 5): a heat map over the box for each joint."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segjax.losses import masked_sum, safe_divide, softmax_cross_entropy
from segjax.models.heads.roi import PoolSettings, RoIs, region_convolutions
from segjax.models.layers.norms import NormName
from segjax.models.layers.upconv import UpConv
from segjax.ops.keypoints import decode_heatmaps, heatmap_targets
from segjax.types import Detections, Instances, Losses

LARGEST = 1 << 14
"""Pixels; no box is larger. It only bounds the indices of `decode_heatmaps`."""


class KeypointNetwork(nn.Module):
    """Convolutions over a region's map, a transposed one to twice the side, and bilinear upsampling to four times."""

    joints: int
    convolutions: tuple[int, ...] = (512,) * 8
    """Channels of each 3x3 convolution."""
    norm: NormName | None = None
    """Behind each convolution."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b s h w c"], *, valid: Bool[Array, "b s"], train: bool = False
    ) -> Float[Array, "b s h4 w4 joints"]:
        """Logits of four times the side of `features`, float32."""
        x = region_convolutions(features, self.convolutions, norm=self.norm, valid=valid, train=train, dtype=self.dtype)
        x = x.reshape(-1, *x.shape[2:])
        x = UpConv(self.joints, 4, 2, 1, dtype=self.dtype, name="upsample")(x)
        b, h, w, joints = x.shape
        # For upsampling JAX's kernel is torch's: half-pixel centres, the border repeated.
        x = jax.image.resize(x.astype(jnp.float32), (b, 2 * h, 2 * w, joints), "linear")
        return x.reshape(*valid.shape, *x.shape[1:])


@dataclasses.dataclass(frozen=True)
class KeypointHead:
    """Adds `keypoints` to detections, trained on `Instances.keypoints`. A `segjax.models.heads.roi.RoIHead`."""

    network: nn.Module
    """To logits [b, s, m, m, joints]: a `KeypointNetwork`, or another."""
    pool: PoolSettings = PoolSettings(size=14)
    positives_only: bool = True
    size: int = 56
    """m, the side of the network's heat maps."""

    def targets(
        self, rois: RoIs, instances: Instances, size: Int[Array, "2"]
    ) -> tuple[Int[Array, "s k"], Bool[Array, "s k"]]:
        """The cell of each joint in its region's map, and whether it is labelled and inside."""
        del size
        if instances.keypoints is None:
            raise ValueError("the keypoint head is trained on joints, and the batch has none: ask for keypoints.")
        cell, inside = heatmap_targets(instances.keypoints[rois.target], rois.boxes, size=self.size)
        return cell, inside & rois.positive[:, None]

    def losses(self, outputs: Float[Array, "b s m m joints"], targets: tuple, rois: RoIs) -> Losses:
        """Cross-entropy over the cells of each joint's map, the mean over the joints to be learnt."""
        cell, learnt = targets
        maps = jnp.moveaxis(outputs, -1, 2).reshape(*cell.shape, -1)
        error = masked_sum(softmax_cross_entropy(maps, cell), learnt)
        return {"keypoint": safe_divide(error, jnp.sum(learnt, dtype=jnp.float32))}

    def decode(
        self, outputs: Float[Array, "n m m joints"], detections: Detections, size: Int[Array, "2"]
    ) -> Detections:
        """Each joint at the maximum of its map, upsampled bicubically to the box's pixels."""
        del size
        points = decode_heatmaps(outputs, detections.boxes, max_size=(LARGEST, LARGEST))
        return detections.replace(keypoints=jnp.where(detections.valid[:, None, None], points, 0.0))
