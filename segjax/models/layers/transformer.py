"""The transformer of DETR (Carion et al. 2020, appendix A.3 and A.4): norms behind the sums, positions at every layer.

It is that of Vaswani et al. (2017) with two changes: what says where a token stands is added to queries and keys at
every attention and never to values, and all outputs are decoded at once.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

xavier = nn.initializers.xavier_uniform()
EPSILON = 1e-5
"""What torch's layer norms add to the variance."""


def sine_positions(
    valid: Bool[Array, "b h w"], channels: int, *, temperature: float = 10_000.0, scale: float = 2 * math.pi
) -> Float[Array, "b h w channels"]:
    """Where each cell of a map stands in its image, as sines and cosines of falling frequency.

    The first half of the channels is of the row, the second of the column, both counted from 1 over the valid cells and
    divided by their number, so that the last one stands at `scale`, in radians. Of channel i of a half with c channels
    the angle is divided by temperature^(2 floor(i / 2) / c); even channels are sines, odd ones cosines.

    Args:
        valid: which cells are not padding; they are the upper left part of the map.
        channels: a multiple of 4.
        temperature: ratio of the highest to the lowest frequency, nearly.
        scale: radians of the whole image.

    Raises:
        ValueError: channels are no multiple of 4.
    """
    if channels % 4 or channels < 4:
        raise ValueError(f"the width of the transformer is {channels}; it must be a multiple of 4.")
    half = channels // 2
    i = np.arange(half)
    rates = jnp.asarray(temperature ** (2 * (i // 2) / half), jnp.float32)
    counted = valid.astype(jnp.float32)

    def encoded(axis: int) -> Array:
        places = jnp.cumsum(counted, axis=axis)
        last = jax.lax.index_in_dim(places, -1, axis)
        angles = (places / (last + 1e-6) * scale)[..., None] / rates[None, None, None]
        return jnp.where(jnp.asarray(i % 2 == 0)[None, None, None], jnp.sin(angles), jnp.cos(angles))

    return jnp.concatenate([encoded(1), encoded(2)], axis=-1)


class Attention(nn.Module):
    """Attention with several heads, as torch's `MultiheadAttention`: one matrix makes queries, keys and values."""

    heads: int
    dropout: float = 0.1
    """Share of the weights that are left out in training."""
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "b n d"],
        keys: Float[Array, "b m d"],
        values: Float[Array, "b m d"],
        *,
        valid: Bool[Array, "b m"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b n d"]:
        """What each query takes from the values.

        `valid` says which of the m are not padding, which no query sees; where all are padding it sees all alike.

        Raises:
          ValueError: the width is no multiple of the number of heads.
        """
        width = queries.shape[-1]
        if width % self.heads:
            raise ValueError(
                f"the width of the transformer is {width}; it must be a multiple of its {self.heads} heads."
            )
        kernel = self.param("in_kernel", xavier, (width, 3 * width), jnp.float32).astype(self.dtype)
        bias = self.param("in_bias", nn.initializers.zeros_init(), (3 * width,), jnp.float32).astype(self.dtype)
        inputs = (x.astype(self.dtype) for x in (queries, keys, values))
        parts = zip(inputs, jnp.split(kernel, 3, axis=1), jnp.split(bias, 3))
        q, k, v = (self._heads(x @ matrix + offset[None, None]) for x, matrix, offset in parts)
        logits = jnp.einsum("bnhc,bmhc->bhnm", q, k).astype(jnp.float32) / math.sqrt(width // self.heads)
        if valid is not None:
            logits = jnp.where(valid[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
        weights = nn.Dropout(self.dropout, deterministic=not train)(jax.nn.softmax(logits, axis=-1))
        taken = jnp.einsum("bhnm,bmhc->bnhc", weights.astype(self.dtype), v).reshape(queries.shape)
        return nn.Dense(width, kernel_init=xavier, dtype=self.dtype, name="out")(taken)

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.heads, -1)


class _Layer(nn.Module):
    """What encoder and decoder layers share."""

    heads: int = 8
    hidden: int = 2048
    """Units between the two matrices behind the attention."""
    dropout: float = 0.1
    dtype: DTypeLike = jnp.float32

    def attention(self, name: str) -> Attention:
        """One under this name."""
        return Attention(self.heads, self.dropout, self.dtype, name=name)

    def add(self, x: Array, change: Array, name: str, train: bool) -> Array:
        """The normalised sum of `x` and what is left of `change` by dropout."""
        change = nn.Dropout(self.dropout, deterministic=not train)(change)
        norm = nn.LayerNorm(epsilon=EPSILON, dtype=jnp.float32, name=name)
        return norm((x + change).astype(jnp.float32)).astype(self.dtype)

    def feed_forward(self, x: Array, train: bool) -> Array:
        """Two matrices with a rectifier between them."""
        y = nn.relu(nn.Dense(self.hidden, kernel_init=xavier, dtype=self.dtype, name="expand")(x))
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return nn.Dense(x.shape[-1], kernel_init=xavier, dtype=self.dtype, name="project")(y)


class EncoderLayer(_Layer):
    """Tokens look at each other."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b m d"],
        positions: Float[Array, "b m d"],
        valid: Bool[Array, "b m"],
        *,
        train: bool = False,
    ) -> Float[Array, "b m d"]:
        """The tokens of the next layer."""
        placed = x + positions
        x = self.add(x, self.attention("self")(placed, placed, x, valid=valid, train=train), "self_norm", train)
        return self.add(x, self.feed_forward(x, train), "norm", train)


class DecoderLayer(_Layer):
    """Queries look at each other, then at the encoder's tokens."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        queries: Float[Array, "b n d"],
        memory: Float[Array, "b m d"],
        positions: Float[Array, "b m d"],
        valid: Bool[Array, "b m"],
        *,
        train: bool = False,
    ) -> Float[Array, "b n d"]:
        """What the queries know behind this layer; `queries` stand for their places."""
        placed = x + queries
        x = self.add(x, self.attention("self")(placed, placed, x, train=train), "self_norm", train)
        seen = self.attention("cross")(x + queries, memory + positions, memory, valid=valid, train=train)
        x = self.add(x, seen, "cross_norm", train)
        return self.add(x, self.feed_forward(x, train), "norm", train)


class Transformer(nn.Module):
    """An encoder of the cells of a map and a decoder of learned queries."""

    encoder_layers: int = 6
    decoder_layers: int = 6
    heads: int = 8
    hidden: int = 2048
    """Units between the two matrices behind each attention."""
    dropout: float = 0.1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w d"],
        valid: Bool[Array, "b h w"],
        queries: Float[Array, "n d"],
        *,
        train: bool = False,
    ) -> Float[Array, "layers b n d"]:
        """What the queries know behind each layer of the decoder, normalised; all layers share that last norm.

        Args:
          x: a map of tokens.
          valid: which of its cells are not padding.
          queries: where the decoder's tokens, which begin as zeros, stand.
          train: with dropout.

        Raises:
          ValueError: the width is no multiple of 4 or of the number of heads, or there is no decoder layer.
        """
        if self.decoder_layers < 1:
            raise ValueError(f"the transformer has {self.decoder_layers} decoder layers; it needs one at least.")
        options = {"heads": self.heads, "hidden": self.hidden, "dropout": self.dropout, "dtype": self.dtype}
        batch, _, _, width = x.shape
        positions = sine_positions(valid, width).astype(self.dtype).reshape(batch, -1, width)
        memory, valid = x.astype(self.dtype).reshape(batch, -1, width), valid.reshape(batch, -1)
        for i in range(self.encoder_layers):
            memory = EncoderLayer(**options, name=f"encoder{i}")(memory, positions, valid, train=train)
        places = jnp.broadcast_to(queries.astype(self.dtype)[None], (batch, *queries.shape))
        known, outputs = jnp.zeros_like(places), []
        norm = nn.LayerNorm(epsilon=EPSILON, dtype=jnp.float32, name="norm")
        for i in range(self.decoder_layers):
            layer = DecoderLayer(**options, name=f"decoder{i}")
            known = layer(known, places, memory, positions, valid, train=train)
            outputs.append(norm(known.astype(jnp.float32)))
        return jnp.stack(outputs)
