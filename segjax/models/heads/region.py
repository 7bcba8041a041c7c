"""The head of R-CNN and SPP-net: a network is trained to classify regions; what it sees in them is then given to linear
SVMs, for classes, and to ridge regression, for boxes."""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segjax.losses import masked_sum, safe_divide, softmax_cross_entropy
from segjax.models.heads.box import BoxSettings, refined_detections
from segjax.models.heads.roi import PoolSettings, RoIs
from segjax.models.layers.conv import max_pool
from segjax.models.layers.plain import classifier_init, he
from segjax.types import Detections, Instances, Losses

Says = Literal["softmax", "svm", "features"]
"""What is predicted of regions. softmax: classes as fine-tuning learns them, boxes as they were proposed. svm: the
finished detector. features: what SVMs and ridge regression are made from, of each region as it was proposed."""


class RegionOutputs(NamedTuple):
    """What the network says of every region; arrays that it has no layer for are None."""

    logits: Float[Array, "*b s columns"]
    """Of fine-tuning. Column 0 is the background; class id c is column c + 1."""
    hidden: Float[Array, "*b s features"]
    """After the last hidden layer: what the SVMs see."""
    pooled: Float[Array, "*b s features2"]
    """Before the first hidden layer: what the ridge regression sees."""
    margins: Float[Array, "*b s classes"] | None
    """Of each class's SVM: positive where it says that a region is of the class."""
    deltas: Float[Array, "*b s classes 4"] | None
    """Of each class's ridge regression."""


class RegionNetwork(nn.Module):
    """Hidden layers over what was pooled of a region, then classes; for R-CNN a whole backbone before them."""

    classes: int
    hidden: tuple[int, ...] = (4096, 4096)
    dropout: float = 0.5
    """Share of the hidden units left out in training."""
    backbone: nn.Module | None = None
    """From regions' pixels to one map, where pixels were pooled."""
    halve: bool = False
    """Take maxima over 2x2 cells of the backbone's map: VGG16's last pooling, which our backbone leaves out."""
    linear: bool = False
    """Whether there are SVMs and ridge regression. Their layers start from zero and are never trained by gradient:
    "svm" and "ridge" are filled in afterwards."""
    unit_logits: bool = False
    """Whether logits start at about unit size, as narrow networks from random weights need (`classifier_init`), and not
    near zero, as the papers have it on a pretrained network."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b s h w c"], *, valid: Bool[Array, "b s"], train: bool = False
    ) -> RegionOutputs:
        """Logits and features of every region; float32."""
        x = features.reshape(-1, *features.shape[2:])
        if self.backbone is not None:
            x = self.backbone(x, train=train)[0]
            x = max_pool(x, window=2, stride=2, padding=0) if self.halve else x
        x = pooled = x.reshape(*valid.shape, -1)
        for i, width in enumerate(self.hidden, start=6):
            x = nn.relu(nn.Dense(width, kernel_init=he, dtype=self.dtype, name=f"fc{i}")(x))
            last = x
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        init = classifier_init if self.unit_logits else nn.initializers.normal(0.01)
        logits = nn.Dense(self.classes + 1, dtype=self.dtype, kernel_init=init, name="class")(x).astype(jnp.float32)
        hidden, pooled = (last if self.hidden else pooled).astype(jnp.float32), pooled.astype(jnp.float32)
        margins = deltas = None
        if self.linear:
            zeros = nn.initializers.zeros_init()
            margins = nn.Dense(self.classes, kernel_init=zeros, name="svm")(hidden)
            deltas = nn.Dense(4 * self.classes, kernel_init=zeros, name="ridge")(pooled)
            deltas = deltas.reshape(*valid.shape, self.classes, 4)
        return RegionOutputs(logits, hidden, pooled, margins, deltas)


@dataclasses.dataclass(frozen=True)
class RegionHead:
    """Regions become detections by class alone, or by SVMs and ridge regression. A `segjax.models.heads.roi.RoIHead`.

    The score of an SVM is the logistic function of its margin: the order is the margin's, and 0.5 is its decision.
    """

    network: nn.Module
    """To `RegionOutputs`."""
    settings: BoxSettings = BoxSettings()
    pool: PoolSettings = PoolSettings()
    says: Says = "softmax"
    positives_only: bool = False

    def targets(self, rois: RoIs, instances: Instances, size: Int[Array, "2"]) -> Int[Array, "s"]:
        """The column of the object that each region was matched to, 0 for the background."""
        del size
        return jnp.where(rois.positive, instances.labels[rois.target] + 1, 0)

    def losses(self, outputs: RegionOutputs, targets: Int[Array, "b s"], rois: RoIs) -> Losses:
        """Cross-entropy, the mean over all sampled regions of the batch."""
        classes = masked_sum(softmax_cross_entropy(outputs.logits, targets), rois.valid)
        return {"class": safe_divide(classes, jnp.sum(rois.valid, dtype=jnp.float32))}

    def decode(self, outputs: RegionOutputs, detections: Detections, size: Int[Array, "2"]) -> Detections:
        """The best (region, class) pairs, thinned by NMS per class; for "features" every region as it came."""
        if self.says == "features":
            found = {"hidden": outputs.hidden, "pooled": outputs.pooled}
            return detections.replace(extra={**detections.extra, **found})
        if self.says == "svm":
            scores, deltas = jax.nn.sigmoid(outputs.margins), outputs.deltas
        else:
            scores = jax.nn.softmax(outputs.logits)[:, 1:]
            deltas = jnp.zeros((*scores.shape, 4), jnp.float32)
        return refined_detections(scores, deltas, detections, size, self.settings)
