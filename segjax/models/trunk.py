"""The trunk of a detector: from images to the feature maps that its heads look at."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, normalize
from segjax.models.parts import Parts
from segjax.types import Variables

Features = Sequence[Float[Array, "b _ _ _"]]


class Trunk(NamedTuple):
    """A backbone and a neck, and what images are normalised by."""

    backbone: nn.Module
    """(images, train) -> maps, finest first; with their `strides`."""
    neck: nn.Module
    """(maps, train) -> the maps that heads see; for two-stage detectors of equal channels."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    dtype: DTypeLike = jnp.float32

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules by the names that their variables have."""
        return {"backbone": self.backbone, "neck": self.neck}

    def prepare(self, images: Array, sizes: Array) -> Float[Array, "b h w 3"]:
        """Normalised images."""
        return normalize(images, sizes, mean=self.mean, std=self.std, dtype=self.dtype)

    def init(self, key: Key[Array, ""], parts: Parts, images: Array, sizes: Array) -> tuple[Features, Variables]:
        """The maps of these images, and the initial variables of both parts."""
        maps, variables = parts.init(key, {}, "backbone", self.prepare(images, sizes))
        return parts.init(key, variables, "neck", maps)

    def train(
        self, key: Key[Array, ""], parts: Parts, variables: Variables, images: Array, sizes: Array
    ) -> tuple[Features, Variables]:
        """The maps in training, and `variables` with the new running statistics."""
        maps, variables = parts.train(key, variables, "backbone", self.prepare(images, sizes))
        return parts.train(key, variables, "neck", maps)

    def __call__(self, parts: Parts, variables: Variables, images: Array, sizes: Array) -> Features:
        """The maps in prediction."""
        return parts(variables, "neck", parts(variables, "backbone", self.prepare(images, sizes)))
