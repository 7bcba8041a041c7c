"""Loss functions over masked arrays, thin over `optax.losses`. Everything is computed in float32."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


def masked_sum(values: Float[Array, "*n"], mask: Bool[Array, "*n"]) -> Float[Array, ""]:
    """Sum of `values` where `mask` holds. What stands elsewhere has no influence, be it NaN.

    Nor has it on the gradient with respect to `values`. Where `values` themselves were computed from a NaN, though, the
    chain rule multiplies the zero by NaN: replace it in what they are computed from.
    """
    return jnp.sum(jnp.where(mask, values.astype(jnp.float32), 0.0))


def safe_divide(numerator: Float[Array, "*n"], denominator: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """`numerator / denominator`, and 0 with zero gradient where the denominator is 0."""
    zero = denominator == 0
    return jnp.where(zero, 0.0, numerator / jnp.where(zero, 1.0, denominator))


def smooth_l1(predictions: Float[Array, "*n"], targets: Float[Array, "*n"], *, beta: float = 1.0) -> Float[Array, "*n"]:
    """Fast R-CNN's robust loss (Girshick 2015, eq. 3), elementwise: quadratic below `beta`, linear above, slope 1.

    It is Huber's loss divided by its threshold, which is how it is computed. `beta` > 0, in units of the targets.
    """
    difference = predictions.astype(jnp.float32) - targets.astype(jnp.float32)
    return optax.losses.huber_loss(difference, delta=beta) / beta


def sigmoid_cross_entropy(
    logits: Float[Array, "*n"], targets: Bool[Array, "*n"] | Float[Array, "*n"]
) -> Float[Array, "*n"]:
    """Binary cross-entropy of logits against probabilities, elementwise."""
    return optax.losses.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), targets.astype(jnp.float32))


def softmax_cross_entropy(logits: Float[Array, "*n classes"], labels: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Cross-entropy of logits against class indices, over the last axis."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
