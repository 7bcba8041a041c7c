"""What a loss is taken over: random samples of fixed size, balanced between positives and negatives, or the hardest."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int32, Key

from segjax.ops.matching import NEGATIVE, POSITIVE

ROW = 64


class Samples(NamedTuple):
    """Indices drawn without replacement, the positives first, then the negatives, then padding."""

    indices: Int32[Array, "count"]
    """0 where not valid."""
    positive: Bool[Array, "count"]
    valid: Bool[Array, "count"]


def sample_balanced(
    key: Key[Array, ""], status: Int32[Array, "n"], *, count: int, positive_fraction: int | float
) -> Samples:
    """Draws up to `count` indices uniformly: at most int(count * positive_fraction) positives, negatives for the rest.

    The counts are those of torchvision's `BalancedPositiveNegativeSampler`: missing positives are made up with
    negatives, missing negatives are not made up (Ren et al. 2015, section 3.1.3, pad likewise).

    Args:
        key: a random key.
        status: POSITIVE, NEGATIVE or anything else, which is never drawn (see `segjax.ops.matching`).
        count: size of the sample.
        positive_fraction: in [0, 1].

    Raises:
        ValueError: count < 1 or positive_fraction outside [0, 1].
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got count={count}.")
    if not 0 <= positive_fraction <= 1:
        raise ValueError(f"positive_fraction must lie in [0, 1], got positive_fraction={positive_fraction}.")
    quota = int(count * positive_fraction)
    positive_key, negative_key = jax.random.split(key)
    positives, available = _draw(positive_key, status == POSITIVE, max(quota, 1))
    taken = jnp.minimum(available, quota)
    negatives, available = _draw(negative_key, status == NEGATIVE, count)
    total = taken + jnp.minimum(available, count - taken)

    slot = jnp.arange(count, dtype=jnp.int32)
    positive, valid = slot < taken, slot < total
    chosen = jnp.where(positive, jnp.take(positives, slot, mode="clip"), jnp.take(negatives, slot - taken, mode="clip"))
    return Samples(jnp.where(valid, chosen, 0), positive, valid)


def hardest(values: Float[Array, "n"], candidates: Bool[Array, "n"], count: Int[Array, ""]) -> Bool[Array, "n"]:
    """The `count` candidates with the largest values, all of them where there are fewer. No gradient flows through.

    Of equal values the lower index is taken. A NaN is the largest of all, so that a loss that has become NaN is seen.
    """
    values = jax.lax.stop_gradient(values.astype(jnp.float32))
    order = jnp.lexsort((jnp.where(jnp.isnan(values), -jnp.inf, -values), ~candidates))
    taken = jnp.arange(values.shape[0], dtype=jnp.int32) < count
    return jnp.zeros_like(candidates).at[order].set(taken) & candidates


def _draw(key: Array, mask: Array, count: int) -> tuple[Array, Array]:
    """`count` random indices where `mask` holds, without replacement, as far as there are that many; and their number.

    Drawn are ranks among the True entries, from a pool of candidates: all ranks where they fit, else ranks drawn with
    replacement, of which repeats are struck out. No rank is treated unlike another, so each subset is equally likely.
    The pool is so large that running out of distinct ranks has a probability below 1e-20. This reads the mask once and
    needs no random number for each of its entries.
    """
    pool = max(4 * count, 64)
    rows, ends = _ranking(mask)
    total = ends[-1]
    candidates = jnp.arange(pool, dtype=jnp.int32)
    usable = candidates < total
    draw_key, order_key = jax.random.split(key)
    if mask.shape[0] > pool:
        drawn = jnp.sort(jax.random.randint(draw_key, (pool,), 0, jnp.maximum(total, 1)))
        fresh = jnp.concatenate([jnp.ones(1, bool), drawn[1:] != drawn[:-1]])
        candidates = jnp.where(total > pool, drawn, candidates)
        usable = jnp.where(total > pool, fresh, usable)
    # 31 bits, so that an unusable candidate sorts behind all others.
    priority = jnp.where(usable, jax.random.bits(order_key, (pool,)) >> 1, jnp.uint32(2**32 - 1))
    ranks = candidates[jnp.argsort(priority)[:count]]
    return _of_rank(rows, ends, ranks), jnp.minimum(total, count)


def _ranking(mask: Array) -> tuple[Array, Array]:
    """The mask in rows, and how many True entries there are up to the end of each row.

    Two levels, because a running sum over 200 000 entries costs more on a CPU than all the rest of a draw.
    """
    padding = -mask.shape[0] % ROW if mask.shape[0] else ROW
    rows = jnp.pad(mask, (0, padding)).reshape(-1, ROW)
    return rows, jnp.cumsum(rows.sum(axis=1, dtype=jnp.int32))


def _of_rank(rows: Array, ends: Array, ranks: Array) -> Array:
    """Indices of the True entries that have `ranks` other True entries before them; any index where there is none."""
    row = jnp.minimum(jnp.searchsorted(ends, ranks, side="right"), ends.shape[0] - 1).astype(jnp.int32)
    within = ranks - jnp.where(row > 0, ends[row - 1], 0)
    column = jnp.argmax(jnp.cumsum(rows[row], axis=1, dtype=jnp.int32) > within[:, None], axis=1)
    return row * ROW + column.astype(jnp.int32)
