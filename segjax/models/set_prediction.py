"""Detectors that predict a set: a fixed number of boxes and classes, one of which is "no object", and no duplicates.

What is learnt depends on which prediction answers for which object. DETR (Carion et al. 2020) asks for the assignment
of least cost under the present predictions; a fixed order of the objects is what it is to be compared with.

These are no dense heads: predictions stand nowhere, and the network has to know where the padding is.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Int32, Key, UInt8

from segjax.losses import masked_sum, safe_divide, softmax_cross_entropy
from segjax.models.layers.normalize import pixel_mask
from segjax.models.parts import Parts
from segjax.models.trunk import Features, Trunk
from segjax.ops import boxes as box_ops
from segjax.ops.box_losses import giou_loss
from segjax.ops.set_matching import check_room, hungarian, in_order, matching_cost
from segjax.types import Batch, Detections, Instances, Losses, Model, Variables

Matching = Literal["hungarian", "largest", "left"]
"""hungarian: by least cost. largest, left: object i of the image is prediction i's, by falling area or from left to
right."""


@dataclasses.dataclass(frozen=True)
class SetSettings:
    """How predictions are matched and what their losses weigh; the defaults are those of DETR's authors."""

    matching: Matching = "hungarian"
    class_weight: float = 1.0
    """Of the classes, in the cost of matching and in the loss alike."""
    box_weight: float = 5.0
    """The same of the absolute differences of boxes."""
    giou_weight: float = 2.0
    """The same of the generalised IoU."""
    none_weight: float = 0.1
    """Of predictions without an object in the mean of the classes' loss: there are many more of them."""
    min_size: float = 1e-2
    """Detections with a smaller side, in pixels, are dropped."""


class SetOutputs(NamedTuple):
    """What a network says: n predictions of each image, by each of its layers, the last of which counts."""

    logits: Float[Array, "*b n columns"]
    """Of the classes and, last, of there being no object."""
    boxes: Float[Array, "*b n 4"]
    """(centre x, centre y, width, height) in units of the sides of the image without padding."""


def set_prediction(trunk: Trunk, network: nn.Module, settings: SetSettings = SetSettings()) -> Model:
    """The model made of this trunk and this network; its variables are in parts "backbone", "neck" and "head".

    Args:
      trunk: from images to maps.
      network: (maps, valid, train) -> `SetOutputs` [layers, b, n, ...], where `valid` says for each map which of its
        cells are not padding.
      settings: matching and losses.

    Returns:
      A `Model` with the losses `class`, `box` and `giou`, weights included, and, of networks with several layers, the
      sums of the same over the earlier ones, each matched for itself: `auxiliary_class`, `auxiliary_box` and
      `auxiliary_giou`.

    Raises:
      ValueError: the matching is not known; from the model, where images can have more objects than there are
        predictions.
    """
    if settings.matching not in get_args(Matching):
        known = ", ".join(map(repr, get_args(Matching)))
        raise ValueError(f"matching is {settings.matching!r}; choose one of {known}.")
    parts = Parts({**trunk.parts, "head": network})

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        images, sizes = batch.images[:1], batch.sizes[:1]
        features, variables = trunk.init(key, parts, images, sizes)
        outputs, variables = parts.init(key, variables, "head", features, valid_cells(features, images, sizes))
        check_room(batch.instances.labels.shape[1], outputs.logits.shape[-2])
        return variables

    def losses(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Losses, Variables]:
        images, sizes = batch.images, jnp.asarray(batch.sizes)
        features, variables = trunk.train(key, parts, variables, images, sizes)
        outputs, variables = parts.train(key, variables, "head", features, valid_cells(features, images, sizes))
        return set_losses(outputs, jax.tree.map(jnp.asarray, batch.instances), sizes, settings=settings), variables

    def predict(
        variables: Variables, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"], sizes: Int[Array, "b 2"]
    ) -> Detections:
        features = trunk(parts, variables, images, sizes)
        outputs = parts(variables, "head", features, valid_cells(features, images, sizes))
        last = jax.tree.map(lambda x: x[-1], outputs)
        return jax.vmap(lambda *image: decode(*image, min_size=settings.min_size))(last, sizes)

    return Model(init, losses, predict)


def valid_cells(features: Features, images: Array, sizes: Array) -> Sequence[Bool[Array, "b _ _"]]:
    """Which cells of each map are not padding: those whose pixel, the nearest as torch counts it, is not."""
    pixels = pixel_mask(jnp.asarray(sizes), *images.shape[1:3])

    def nearest(cells: int, axis: int) -> np.ndarray:
        side = images.shape[axis]
        return np.minimum(np.floor(np.arange(cells) * (side / cells)).astype(np.int32), side - 1)

    return [pixels[:, nearest(x.shape[1], 1)][:, :, nearest(x.shape[2], 2)] for x in features]


def set_losses(
    outputs: SetOutputs, instances: Instances, sizes: Int[Array, "b 2"], *, settings: SetSettings = SetSettings()
) -> Losses:
    """The losses of a batch (Carion et al. 2020, section 3.1 and A.2), weights included; see `set_prediction`.

    Of the outputs [layers, b, n, ...] each layer is matched for itself. `class` is a mean over all predictions,
    weighted by `none_weight` where there is no object; `box` and `giou` are divided by the number of objects of the
    batch, or by 1 if there are none.
    """
    valid = instances.valid
    boxes = jnp.where(valid[..., None], relative(instances.boxes, sizes[:, None]), 0.0)
    labels = jnp.where(valid, instances.labels, 0)

    def of_image(logits: Array, predicted: Array, labels: Array, boxes: Array, valid: Array) -> Array:
        chosen = match(SetOutputs(logits, predicted), labels, boxes, valid, settings=settings)
        n, columns = logits.shape
        column = jnp.full(n, columns - 1, jnp.int32).at[chosen].set(labels.astype(jnp.int32), mode="drop")
        weight = jnp.where(column == columns - 1, settings.none_weight, 1.0)
        # Padding is given equal boxes: of two without area the gradient would be no number, masked or not.
        own, boxes = (jnp.where(valid[:, None], x, 0.5) for x in (predicted[jnp.minimum(chosen, n - 1)], boxes))
        distance = jnp.sum(jnp.abs(own - boxes), axis=-1)
        overlap = giou_loss(box_ops.cxcywh_to_xyxy(own), box_ops.cxcywh_to_xyxy(boxes))
        classes = jnp.sum(weight * softmax_cross_entropy(logits, column))
        return jnp.stack([classes, jnp.sum(weight), masked_sum(distance, valid), masked_sum(overlap, valid)])

    of_batch = jax.vmap(of_image)
    sums = jax.vmap(lambda *layer: of_batch(*layer, labels, boxes, valid))(*outputs)
    classes, weights, distances, overlaps = jnp.moveaxis(jnp.sum(sums, axis=1), -1, 0)
    count = jnp.maximum(jnp.sum(valid, dtype=jnp.float32), 1.0)
    layers = {
        "class": settings.class_weight * safe_divide(classes, weights),
        "box": settings.box_weight * distances / count,
        "giou": settings.giou_weight * overlaps / count,
    }
    last = {name: values[-1] for name, values in layers.items()}
    if len(classes) == 1:
        return last
    return {**last, **{f"auxiliary_{name}": jnp.sum(values[:-1]) for name, values in layers.items()}}


def match(
    outputs: SetOutputs,
    labels: Int[Array, "m"],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, "m"],
    *,
    settings: SetSettings = SetSettings(),
) -> Int32[Array, "m"]:
    """The prediction [n, ...] that answers for each object of one image; n for padding.

    Objects' boxes are as those of `SetOutputs`, and zero where they are padding.
    """
    if settings.matching != "hungarian":
        return in_order(boxes, valid, n=outputs.logits.shape[0], order=settings.matching)
    weights = {name: getattr(settings, name) for name in ("class_weight", "box_weight", "giou_weight")}
    return hungarian(matching_cost(*jax.lax.stop_gradient(outputs), labels, boxes, **weights), valid)


def relative(boxes: Float[Array, "*b 4"], size: Int[Array, "*s 2"]) -> Float[Array, "*b 4"]:
    """`xyxy` in pixels as centre, width and height in units of the sides of an image of `size` (height, width)."""
    return box_ops.xyxy_to_cxcywh(boxes) / _sides(jnp.maximum(size, 1))


def _sides(size: Array) -> Array:
    height, width = size[..., 0].astype(jnp.float32), size[..., 1].astype(jnp.float32)
    return jnp.stack([width, height, width, height], axis=-1)


def decode(outputs: SetOutputs, size: Int[Array, "2"], *, min_size: float = 1e-2) -> Detections:
    """All predictions of one image as detections, best first: the most probable class of each, cut to the image.

    The probability of there being no object takes part in the softmax and is never the class.
    """
    probabilities = jax.nn.softmax(outputs.logits.astype(jnp.float32), axis=-1)[:, :-1]
    scores, labels = jnp.max(probabilities, axis=-1), jnp.argmax(probabilities, axis=-1).astype(jnp.int32)
    boxes = box_ops.clip(box_ops.cxcywh_to_xyxy(outputs.boxes * _sides(size)[None]), size)
    valid = jnp.all(boxes[:, 2:] - boxes[:, :2] >= min_size, axis=-1)
    order = jnp.argsort(jnp.where(valid, -scores, jnp.inf))
    boxes, scores, labels, valid = (x[order] for x in (boxes, scores, labels, valid))
    return Detections(
        boxes=jnp.where(valid[:, None], boxes, 0.0),
        scores=jnp.where(valid, scores, 0.0),
        labels=jnp.where(valid, labels, 0),
        valid=valid,
    )
