"""Loss functions over masked arrays, thin over `optax.losses`. Everything is computed in float32.

Those of pixels (`pixel_cross_entropy`, `pixel_focal`, `hardest_pixels`, `dice`) take the logits and the label map of a
whole batch and give its mean. A pixel labelled `IGNORE` has no influence, and if there are no others the loss is 0 with
zero gradient. Any other label has to be a class: one beyond the classes gives NaN.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from segjax.types import IGNORE

LabelMap = UInt8[Array, "*b h w"] | Int[Array, "*b h w"]
"""0-based class ids, `IGNORE` at pixels that do not count."""


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


def sigmoid_focal(
    logits: Float[Array, "*n"], targets: Bool[Array, "*n"], *, alpha: float = 0.25, gamma: float = 2.0
) -> Float[Array, "*n"]:
    """Focal loss of binary choices, elementwise: -a (1 - p)^gamma log p (Lin et al. 2017, equation 5).

    p is the probability given to the target and a its weight: `alpha` for True, 1 - `alpha` for False. `gamma` >= 0.
    """
    # `optax.losses.sigmoid_focal_loss` gives the same for hard targets and soft ones, but by a logsumexp over the two
    # outcomes: eight times the memory of the logits and nine times the time on a CPU, of what is RetinaNet's largest
    # array by far. Hard targets need only the sign of the logit.
    margin = jnp.where(targets, logits, -logits).astype(jnp.float32)
    weight = jnp.where(targets, alpha, 1.0 - alpha) * jnp.exp(gamma * jax.nn.log_sigmoid(-margin))
    return -weight * jax.nn.log_sigmoid(margin)


def quality_focal(logits: Float[Array, "*n"], quality: Float[Array, "*n"], *, beta: float = 2.0) -> Float[Array, "*n"]:
    """Focal loss towards a quality in [0, 1] in place of a yes or no, elementwise (Li et al. 2020, "GFL", equation 2).

    |quality - p|^beta times the binary cross-entropy of p, the sigmoid of the logit, against the quality. `beta` >= 1.
    """
    logits, quality = logits.astype(jnp.float32), quality.astype(jnp.float32)
    return jnp.abs(quality - jax.nn.sigmoid(logits)) ** beta * sigmoid_cross_entropy(logits, quality)


def varifocal(
    logits: Float[Array, "*n"], quality: Float[Array, "*n"], *, alpha: float = 0.75, gamma: float = 2.0
) -> Float[Array, "*n"]:
    """Varifocal loss, elementwise (Zhang et al. 2021, "VarifocalNet", equation 2).

    The binary cross-entropy of p, the sigmoid of the logit, against the quality, weighted by the quality where that is
    above 0, and by `alpha` * p^gamma elsewhere: easy negatives count less, positives never. `gamma` >= 1. No
    gradient flows through the weight, as in mmdetection.
    """
    logits, quality = logits.astype(jnp.float32), quality.astype(jnp.float32)
    weight = jnp.where(quality > 0, quality, alpha * jax.nn.sigmoid(logits) ** gamma)
    return jax.lax.stop_gradient(weight) * sigmoid_cross_entropy(logits, quality)


def distribution_focal(logits: Float[Array, "*n bins"], values: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Cross-entropy towards the two bins beside a value, by how near they are (Li et al. 2020, "GFL", equation 6).

    Bin i stands for the number i. Values beyond the first or the last bin are taken as that bin's.

    Raises:
        ValueError: fewer than two bins.
    """
    bins = logits.shape[-1]
    if bins < 2:
        raise ValueError(f"distribution_focal: logits have {bins} bin; a value lies between two.")
    values = jnp.clip(values.astype(jnp.float32), 0.0, bins - 1.0)
    below = jnp.minimum(jnp.floor(values).astype(jnp.int32), bins - 2)
    above = values - below.astype(jnp.float32)
    return (1.0 - above) * softmax_cross_entropy(logits, below) + above * softmax_cross_entropy(logits, below + 1)


def softmax_cross_entropy(logits: Float[Array, "*n classes"], labels: Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Cross-entropy of logits against class indices, over the last axis."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def pixel_cross_entropy(
    logits: Float[Array, "*b h w classes"], labels: LabelMap, *, class_weights: Float[Array, " classes"] | None = None
) -> Float[Array, ""]:
    """Mean cross-entropy of the pixels that count.

    With `class_weights` it is a weighted mean, the weight of a pixel being that of its class: the sum is divided by the
    sum of the weights, as `torch.nn.functional.cross_entropy` does it.
    """
    logits, labels, valid = _pixels(logits, labels)
    return _mean_by_class(softmax_cross_entropy(logits, labels), labels, valid, class_weights)


def pixel_focal(
    logits: Float[Array, "*b h w classes"],
    labels: LabelMap,
    *,
    gamma: float = 2.0,
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, ""]:
    """Mean focal loss of the pixels that count, over the softmax: -(1 - p)^gamma log p (Lin et al. 2017, eq. 4).

    p is the probability of the pixel's class. `gamma` >= 0; 0 is the cross-entropy. `class_weights` weigh the mean as
    in `pixel_cross_entropy`, in place of the paper's alpha.

    Raises:
        ValueError: there is only one class.
    """
    if logits.shape[-1] < 2:
        raise ValueError("pixel_focal: logits have 1 class, and a softmax over one class is always certain")
    logits, labels, valid = _pixels(logits, labels)
    # Against all other classes together the class is a binary choice, with p as the sigmoid of this difference.
    own = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    others = jnp.where(jax.nn.one_hot(labels, logits.shape[-1], dtype=bool), -jnp.inf, logits)
    margin = own - jax.nn.logsumexp(others, axis=-1)
    values = optax.losses.sigmoid_focal_loss(margin, jnp.ones_like(margin), gamma=gamma)
    return _mean_by_class(values, labels, valid, class_weights)


def dice(logits: Float[Array, "*b h w classes"], labels: LabelMap, *, smooth: float = 1.0) -> Float[Array, ""]:
    """Soft Dice loss: 1 - (I + smooth) / ((P + T) / 2 + smooth), the mean over the classes.

    Of each class, P is the sum of its probabilities over the batch's pixels that count, T the number of its pixels and
    I the sum of its probabilities at them. The overlap is that of Milletari et al. (2016), section 3, with plain
    sums where theirs are of squares, as in `optax.losses.dice_loss`. With `smooth`, in pixels, a class that is neither
    there nor predicted has no loss.

    Raises:
        ValueError: `smooth` is not above 0, so that an absent class would be 0 / 0.
    """
    if smooth <= 0:
        raise ValueError(f"dice: smooth={smooth} must be above 0")
    logits, labels, valid = _pixels(logits, labels)
    classes = logits.shape[-1]
    labels = labels.reshape(-1)
    # A column more takes the pixels that do not count, whole, and no part of those that do.
    counts = valid.reshape(-1, 1)
    logits = jnp.where(counts, logits.reshape(-1, classes), -jnp.inf)
    logits = jnp.concatenate([logits, jnp.where(counts, -jnp.inf, 0.0)], axis=-1)
    targets = jax.nn.one_hot(jnp.where(counts[:, 0], labels, classes), classes + 1)
    values = optax.losses.dice_loss(logits, targets, smooth=smooth, reduction="none", axis=0)[:classes]
    return jnp.mean(values) + jnp.where(jnp.any(labels >= classes), jnp.nan, 0.0)


def hardest_pixels(logits: Float[Array, "*b h w classes"], labels: LabelMap, *, keep: float) -> Float[Array, ""]:
    """Mean cross-entropy of the hardest pixels: of those in the batch that count, the share `keep`, and at least one.

    Online bootstrapping (Wu et al. 2016, "High-performance semantic segmentation using very deep fully convolutional
    networks", section 3.3). The value is exact. Pixels just as hard as the last one kept share its place, so that the
    gradient depends on no order.

    Raises:
        ValueError: `keep` is not in (0, 1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"hardest_pixels: keep={keep} must be above 0 and at most 1")
    logits, labels, valid = _pixels(logits, labels)
    values = softmax_cross_entropy(logits, labels)
    # Rounding can make the cross-entropy of a certain pixel a little negative; NaN must be kept, to be seen.
    hardness = jnp.nan_to_num(jax.lax.stop_gradient(values), nan=jnp.inf, posinf=jnp.inf)
    hardness = jnp.where(valid, jnp.maximum(hardness, 0.0), -1.0)
    count = jnp.sum(valid, dtype=jnp.int32)
    kept = jnp.clip(jnp.round(keep * count.astype(jnp.float32)).astype(jnp.int32), jnp.minimum(count, 1), count)
    last = _largest(hardness, kept)
    harder, equal = hardness > last, hardness == last
    left = (kept - jnp.sum(harder, dtype=jnp.int32)).astype(jnp.float32)
    each = safe_divide(left, jnp.sum(equal, dtype=jnp.int32).astype(jnp.float32))
    total = masked_sum(values, harder) + each * masked_sum(values, equal)
    return safe_divide(total, kept.astype(jnp.float32))


def _largest(values: Array, count: Array) -> Array:
    """The `count`-th largest of `values`, which are at least 0, or -1 and never asked for. NaN if `count` is 0.

    It is found bit by bit, in 31 counts: a sort takes many times as long.
    """
    # Floats that are not negative are ordered as their bits are.
    order = jax.lax.bitcast_convert_type(values, jnp.int32)

    def bit(i: Array, found: Array) -> Array:
        tried = found | (jnp.int32(1) << (30 - i))
        return jnp.where(jnp.sum(order >= tried, dtype=jnp.int32) >= count, tried, found)

    return jax.lax.bitcast_convert_type(jax.lax.fori_loop(0, 31, bit, jnp.int32(0)), jnp.float32)


def _pixels(logits: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Logits in float32 and labels in int32, both 0 where the pixel does not count, and where it does."""
    valid = labels != IGNORE
    labels = jnp.where(valid, labels, 0).astype(jnp.int32)
    return jnp.where(valid[..., None], logits.astype(jnp.float32), 0.0), labels, valid


def _mean_by_class(values: Array, labels: Array, valid: Array, class_weights: Array | None) -> Array:
    weights = jnp.ones_like(values) if class_weights is None else class_weights.astype(jnp.float32)[labels]
    weights = jnp.where(valid, weights, 0.0)
    return safe_divide(masked_sum(values * weights, valid), jnp.sum(weights))
