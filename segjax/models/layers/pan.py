"""Path aggregation network (Liu et al. 2018) over a backbone's maps."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segjax.models.layers.csp import ConvNormSiLU, CSPStage
from segjax.models.layers.norms import NormName
from segjax.ops.resample import nearest


class PAN(nn.Module):
    """Maps of falling size -> as many of `channels` each, finest first: a way down the pyramid, then one up.

    Downwards as in a feature pyramid, then upwards again by convolutions of stride 2, so that what the fine maps know
    of places reaches the coarse ones over a few layers (section 3.1). Where two maps meet they are put beside each
    other and mixed by a `CSPStage`, as Bochkovskiy et al. 2020 (YOLOv4, section 3) do it; the paper adds them.
    """

    channels: int = 128
    blocks: int = 1
    """In each stage that mixes two maps."""
    norm: NormName = "batch"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: list[Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> list[Float[Array, "b _ _ channels"]]:
        """The maps. Each should be half the size of the one before, rounded up."""
        options = {"norm": self.norm, "dtype": self.dtype}

        def mixed(one: Array, other: Array, name: str) -> Array:
            stage = CSPStage(self.channels, self.blocks, residual=False, **options, name=name)
            return stage(jnp.concatenate([one, other], axis=-1), train=train)

        maps = [
            ConvNormSiLU(self.channels, 1, **options, name=f"inner{i}")(x, train=train) for i, x in enumerate(features)
        ]
        for i in reversed(range(len(maps) - 1)):
            size = (maps[i].shape[1], maps[i].shape[2])
            maps[i] = mixed(maps[i], nearest(maps[i + 1], size=size), f"down{i}")
        for i in range(1, len(maps)):
            finer = ConvNormSiLU(self.channels, 3, 2, **options, name=f"subsample{i}")(maps[i - 1], train=train)
            maps[i] = mixed(finer, maps[i], f"up{i}")
        return maps
