"""Regions run through a network a few at a time, so that the memory does not grow with their number."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from segjax.types import Variables

Outputs = Callable[[Int[Array, ""] | None, Array, Array, Variables], tuple[Any, Variables]]
"""(number of the chunk, boxes [b c 4], valid [b c], variables) -> (outputs that begin with [b c], new variables). The
number is None where there are no chunks."""


def in_chunks(
    outputs_of: Outputs,
    boxes: Float[Array, "b s 4"],
    valid: Bool[Array, "b s"],
    variables: Variables,
    *,
    count: int,
) -> tuple[Any, Variables]:
    """`outputs_of` all regions, `count` of each image at a time, and the variables after the last of them.

    Where a gradient is taken, what happens within a chunk is computed anew. Variables beside "params" go from chunk to
    chunk. 0 takes all regions at once.
    """
    total = valid.shape[1]
    if not 0 < count < total:
        return outputs_of(None, boxes, valid, variables)
    turns = -(-total // count)

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, turns * count - total), *((0, 0),) * (x.ndim - 2)))
        return jnp.moveaxis(x.reshape(x.shape[0], turns, count, *x.shape[2:]), 1, 0)

    def joined(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], turns * count, *x.shape[3:])[:, :total]

    def turn(statistics: Variables, given: tuple[Array, Array, Array]) -> tuple[Variables, Any]:
        outputs, new = outputs_of(*given, {**variables, **statistics})
        return _statistics(new), outputs

    # A scan keeps the programs of its turns apart by itself.
    turn = jax.checkpoint(turn, prevent_cse=False)
    chunks = (jnp.arange(turns, dtype=jnp.int32), cut(boxes), cut(valid))
    statistics, outputs = jax.lax.scan(turn, _statistics(variables), chunks)
    return jax.tree.map(joined, outputs), {**variables, **statistics}


def _statistics(variables: Variables) -> Variables:
    return {name: value for name, value in variables.items() if name != "params"}
