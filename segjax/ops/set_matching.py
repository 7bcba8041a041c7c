"""Which prediction of an unordered set answers for which object: one to one, by least cost or in a fixed order.

Functions of one image, to be `vmap`ped. They give the prediction of every object, and no gradient flows through them.
An object that is padding gets the number of a prediction that there is not, so that what is scattered to it is dropped.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Int32

from segjax.ops import boxes as box_ops

Order = Literal["largest", "left"]
"""largest: by falling area. left: by rising left side."""
WORST = 1e6
"""The cost of what is no number: the search for the least cost would never end on NaN."""


def matching_cost(
    logits: Float[Array, "n columns"],
    predicted: Float[Array, "n 4"],
    labels: Int[Array, "m"],
    boxes: Float[Array, "m 4"],
    *,
    class_weight: float = 1.0,
    box_weight: float = 5.0,
    giou_weight: float = 2.0,
) -> Float[Array, "m n"]:
    """What it costs to let each prediction answer for each object (Carion et al. 2020, DETR, section 3.1 and A.2).

    The weighted sum of minus the probability of the object's class, of the absolute differences of the four numbers of
    a box and of minus the generalised IoU. The weights are those of the authors' code.

    Args:
        logits: of the classes and whatever else the softmax is over.
        predicted, boxes: (centre x, centre y, width, height), in units of the image's sides.
        labels: columns of `logits`.
        class_weight, box_weight, giou_weight: of the three terms.
    """
    probabilities = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    distance = jnp.sum(jnp.abs(boxes[:, None, :] - predicted[None, :, :]), axis=-1)
    overlap = box_ops.giou(box_ops.cxcywh_to_xyxy(boxes), box_ops.cxcywh_to_xyxy(predicted))
    return box_weight * distance - class_weight * probabilities[:, labels].T - giou_weight * overlap


def hungarian(cost: Float[Array, "m n"], valid: Bool[Array, "m"]) -> Int32[Array, "m"]:
    """The prediction of each object in the assignment of least total cost, one to one; n for padding.

    Kuhn's Hungarian method, by optax.

    Args:
        cost: of each prediction for each object. NaN and infinities count as very large or very small numbers.
        valid: which objects are none but padding; their costs have no influence.

    Raises:
        ValueError: there is room for more objects than there are predictions.
    """
    check_room(*cost.shape)
    m, n = cost.shape
    cost = jax.lax.stop_gradient(cost).astype(jnp.float32)
    cost = jnp.clip(jnp.nan_to_num(cost, nan=WORST, posinf=WORST, neginf=-WORST), -WORST, WORST)
    # Each object has a column more that is free if it is padding and forbidden if not. Rows of equal costs would do
    # too, but the search goes through all their ties: with 100 rows, thousands of rounds.
    real = jnp.where(valid[:, None], cost, jnp.inf)
    own = jnp.where(jnp.eye(m, dtype=bool) & ~valid[:, None], 0.0, jnp.inf)
    rows, columns = optax.assignment.hungarian_algorithm(jnp.concatenate([real, own], axis=1))
    return jnp.full(m, n, jnp.int32).at[rows].set(jnp.minimum(columns, n).astype(jnp.int32))


def in_order(
    boxes: Float[Array, "m 4"], valid: Bool[Array, "m"], *, n: int, order: Order = "largest"
) -> Int32[Array, "m"]:
    """The place of each object in an order that knows nothing of predictions; of equal ones the first is first.

    Args:
        boxes: (centre x, centre y, width, height) in any unit.
        valid: which objects are none but padding; they get n.
        n: number of predictions.
        order: what they are ordered by.

    Raises:
        ValueError: there is room for more objects than there are predictions.
    """
    check_room(boxes.shape[0], n)
    key = -boxes[:, 2] * boxes[:, 3] if order == "largest" else boxes[:, 0] - boxes[:, 2] / 2
    ranks = jnp.argsort(jnp.argsort(jnp.where(valid, key, jnp.inf)))
    return jnp.where(valid, ranks, n).astype(jnp.int32)


def check_room(objects: int, predictions: int) -> None:
    """`ValueError` where a set of predictions is too small for the objects that an image can have."""
    if objects > predictions:
        raise ValueError(
            f"an image has room for {objects} objects and the model makes {predictions} predictions, one for each "
            "object at most: make data.capacity smaller or model.queries (model.slots) larger."
        )
