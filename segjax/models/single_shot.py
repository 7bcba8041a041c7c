"""Single-shot detectors put together: a trunk of feature maps and one dense head."""

import jax
from jaxtyping import Array, Float, Int, Key, UInt8

from segjax.models.checks import check_head, check_losses, check_rows
from segjax.models.heads.dense import MEMBERS, DenseHead
from segjax.models.parts import Parts
from segjax.models.trunk import Features, Trunk
from segjax.types import Batch, Detections, Losses, Model, Variables

ROWS = "images and places"


def single_shot(trunk: Trunk, head: DenseHead) -> Model:
    """The model made of this trunk and this head; its variables are in parts "backbone", "neck" and "head".

    Raises:
      ValueError: the head is none; from the model, where its functions give what does not fit the places.
    """
    check_head("head", head, MEMBERS, "DenseHead")
    parts = Parts({**trunk.parts, "head": head.network})

    def places(images: Array, features: Features):
        return head.places(images.shape[1:3], [(x.shape[1], x.shape[2]) for x in features])

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        features, variables = trunk.init(key, parts, batch.images[:1], batch.sizes[:1])
        places(batch.images, features)  # where the settings do not fit the maps, this says so
        return parts.init(key, variables, "head", features)[1]

    def losses(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Losses, Variables]:
        features, variables = trunk.train(key, parts, variables, batch.images, batch.sizes)
        outputs, variables = parts.train(key, variables, "head", features)
        where = places(batch.images, features)
        check_rows("the network of the head", outputs, _rows(outputs), ROWS)
        of_image = jax.vmap(head.targets, in_axes=(0, None, 0, 0))
        targets = of_image(jax.lax.stop_gradient(outputs), where, batch.instances, batch.sizes)
        return check_losses("head", head.losses(outputs, jax.lax.stop_gradient(targets), where)), variables

    def predict(
        variables: Variables, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"], sizes: Int[Array, "b 2"]
    ) -> Detections:
        features = trunk(parts, variables, images, sizes)
        outputs = parts(variables, "head", features)
        check_rows("the network of the head", outputs, _rows(outputs), ROWS)
        detections = jax.vmap(head.decode, in_axes=(0, None, 0))(outputs, places(images, features), sizes)
        check_rows("`decode` of the head", detections, detections.scores.shape, "images and detections")
        return detections

    return Model(init, losses, predict)


def _rows(outputs) -> tuple[int, ...]:
    """The images and places of the first array, which those of all others must equal."""
    return tuple(jax.tree.leaves(outputs)[0].shape[:2])
