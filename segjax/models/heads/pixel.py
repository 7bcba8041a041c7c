"""Heads that give every position of a map its classes: what a model of semantic segmentation is made of."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.conv import Conv, max_pool
from segjax.models.layers.norms import NormName, norm_layer
from segjax.models.layers.upconv import UpConv, bilinear_init
from segjax.ops import resample

uniform = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""What torch initialises convolutions with: logits of random weights stay below one."""
zeros = nn.initializers.zeros_init()
Maps = Sequence[Float[Array, "b _ _ _"]]


def _rectified(
    x: Array, channels: int, kernel: int, *, name: str, norm: NormName | None, train: bool, dilation: int = 1
) -> Array:
    """A convolution in the dtype of `x`, with a norm in place of its bias unless that is None, and a rectifier."""
    x = Conv(channels, kernel, dilation=dilation, bias=norm is None, dtype=x.dtype, name=name)(x)
    if norm is not None:
        x = norm_layer(norm, dtype=x.dtype)(name=f"{name}_norm")(x, train=train)
    return nn.relu(x)


def _logits(x: Array, classes: int, *, name: str = "logits", kernel_init: nn.initializers.Initializer = uniform):
    """A 1x1 convolution to the classes."""
    return Conv(classes, 1, bias=True, kernel_init=kernel_init, dtype=x.dtype, name=name)(x)


def _dropout(x: Array, rate: float, *, train: bool) -> Array:
    return nn.Dropout(rate, deterministic=not train)(x)


class FCNHead(nn.Module):
    """A 3x3 convolution and a classifier of each position: torchvision's FCN head, and its auxiliary one."""

    classes: int
    level: int = -1
    """Which of the backbone's maps it looks at."""
    channels: int | None = None
    """Of the convolution; a quarter of the map's by default."""
    norm: NormName = "batch"
    dropout: float = 0.1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Maps, *, train: bool = False) -> Float[Array, "b h w classes"]:
        """Logits at the resolution of its map."""
        x = features[self.level].astype(self.dtype)
        x = _rectified(x, self.channels or x.shape[-1] // 4, 3, name="conv", norm=self.norm, train=train)
        return _logits(_dropout(x, self.dropout, train=train), self.classes)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017, section 3.3): the map seen at several distances, and whole.

    A 1x1 convolution, a 3x3 one for each dilation rate, and the mean of the map, each with `channels`; stacked and
    projected to as many. The mean is taken over padding too, as torchvision's is.
    """

    channels: int = 256
    rates: Sequence[int] = (12, 24, 36)
    norm: NormName = "batch"
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w channels"]:
        """Keeps the resolution."""
        x, options = x.astype(self.dtype), {"norm": self.norm, "train": train}
        branches = [_rectified(x, self.channels, 1, name="branch0", **options)]
        for i, rate in enumerate(self.rates, start=1):
            branches.append(_rectified(x, self.channels, 3, name=f"branch{i}", dilation=rate, **options))
        mean = jnp.mean(x.astype(jnp.float32), axis=(1, 2), keepdims=True).astype(self.dtype)
        pooled = _rectified(mean, self.channels, 1, name="pool", **options)
        branches.append(jnp.broadcast_to(pooled, branches[0].shape))
        x = _rectified(jnp.concatenate(branches, axis=-1), self.channels, 1, name="project", **options)
        return _dropout(x, self.dropout, train=train)


class DeepLabHead(nn.Module):
    """DeepLabV3's head on the last of the backbone's maps: `ASPP`, a 3x3 convolution and a classifier."""

    classes: int
    channels: int = 256
    rates: Sequence[int] = (12, 24, 36)
    norm: NormName = "batch"
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Maps, *, train: bool = False) -> Float[Array, "b h w classes"]:
        """Logits at the resolution of the map."""
        pyramid = ASPP(self.channels, self.rates, self.norm, self.dropout, self.dtype, name="aspp")
        x = pyramid(features[-1], train=train)
        return _logits(_rectified(x, self.channels, 3, name="conv", norm=self.norm, train=train), self.classes)


class LRASPPHead(nn.Module):
    """Lite R-ASPP (Howard et al. 2019, section 6.4) on the first, finer and the last, coarser of the backbone's maps.

    The coarse map is projected and weighed, channel by channel, by a gate that sees the mean of the whole; both maps
    are classified, and the logits added at the finer resolution. The gate sees all of the map, padding included, in
    torchvision's form and not in windows, which the paper has.
    """

    classes: int
    channels: int = 128
    norm: NormName = "batch"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Maps, *, train: bool = False) -> Float[Array, "b h w classes"]:
        """Logits at the resolution of the first map."""
        low, high = (features[i].astype(self.dtype) for i in (0, -1))
        x = _rectified(high, self.channels, 1, name="conv", norm=self.norm, train=train)
        mean = jnp.mean(high.astype(jnp.float32), axis=(1, 2), keepdims=True)
        x = x * nn.sigmoid(Conv(self.channels, 1, dtype=self.dtype, name="gate")(mean))
        # The paper interpolates before it classifies. A 1x1 convolution commutes with that, and classes are fewer.
        x = resample.bilinear(_logits(x, self.classes, name="high"), size=low.shape[1:3])
        return x + _logits(low, self.classes, name="low")


class SkipHead(nn.Module):
    """The head of Long et al. 2015: a classifier's hidden layers as convolutions, and scores of finer maps added.

    On the maps of VGG-16's last stages, not yet pooled, finest first: the last for a `stride` of 32, the last two for
    16, three for 8. Logits are given at that stride or, with `learn_last`, eight to 32 times finer. The first hidden
    layer has a 7x7 kernel, the others 1x1; each is followed by a rectifier and dropout.

    The layers of a coarser net have the same names in a finer one, for which it is trained first (section 4.2).
    As in the paper, all scores begin with zeros and transposed convolutions as bilinear interpolation, so that a net
    that starts from a coarser one first says the same. All convolutions keep the size of their map, so that nothing is
    cropped and nothing shifted; the paper pads the image by 100 pixels and cuts out what it needs.
    """

    classes: int
    stride: int = 8
    hidden: Sequence[int] = (4096, 4096)
    norm: NormName | None = None
    """Behind each hidden layer; VGG16 has none, but from random weights it hardly learns without."""
    dropout: float = 0.5
    skip_scales: tuple[float, float] = (1.0, 1.0)
    """Factors of the fourth and the third stage's map. (1e-2, 1e-4) trains all at once, without a coarser net to start
    from (Shelhamer et al. 2017, section 4.3)."""
    learn_last: bool = False
    """Whether the last upsampling is learnt too; in the paper it is bilinear for ever."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Maps, *, train: bool = False) -> Float[Array, "b h w classes"]:
        """Logits; sides of the images must be multiples of 32."""
        skips = {32: 0, 16: 1, 8: 2}.get(self.stride)
        if skips is None or len(features) < skips + 1:
            raise ValueError(f"stride is {self.stride} on {len(features)} maps; 32, 16 and 8 take one, two and three.")
        pooled = [max_pool(x.astype(self.dtype), window=2, stride=2, padding=0) for x in features]
        x = pooled[-1]
        for i, width in enumerate(self.hidden):
            x = _rectified(x, width, 1 if i else 7, name=f"fc{i + 6}", norm=self.norm, train=train)
            x = _dropout(x, self.dropout, train=train)
        x = _logits(x, self.classes, name="score", kernel_init=zeros)
        for stage, scale in zip((4, 3)[:skips], self.skip_scales):
            finer = _logits(scale * pooled[stage - 6], self.classes, name=f"score_pool{stage}", kernel_init=zeros)
            x = self._upsample(x, 2, f"upsample_to_pool{stage}") + finer
        return self._upsample(x, self.stride, "upsample_last") if self.learn_last else x

    def _upsample(self, x: Array, factor: int, name: str) -> Array:
        options = {"padding": factor // 2, "bias": False, "kernel_init": bilinear_init, "dtype": self.dtype}
        return UpConv(self.classes, 2 * factor, factor, **options, name=name)(x)
