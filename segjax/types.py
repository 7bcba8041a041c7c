"""The values that travel between data, models and evaluation: fixed size, with a mask where the count varies.

Every class is a pytree. Leading axes `*b` are free: one example has none, a batch has one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, UInt8
from numpy import ndarray

Variables = dict[str, Any]
"""A model's variables: `{"params": ..., "batch_stats": ...}`; everything outside "params" is not trained."""
Losses = dict[str, Float[Array, ""]]
"""The loss terms by name, each already averaged over the batch."""


@struct.dataclass
class Instances:
    """The labelled objects of an image, padded to a fixed capacity.

    Rows where `valid` is False are padding; their boxes are zero and mean nothing.
    """

    boxes: Float[Array | ndarray, "*b n 4"]
    """`xyxy` in pixels of the padded image, continuous coordinates."""
    labels: Int[Array | ndarray, "*b n"]
    """0-based class ids."""
    valid: Bool[Array | ndarray, "*b n"]


@struct.dataclass
class Batch:
    """What one training step sees."""

    images: UInt8[Array | ndarray, "b h w 3"] | Float[Array | ndarray, "b h w 3"]
    """RGB, bytes or floats in 0..1, the image at the top left and padding below and to the right."""
    sizes: Int[Array | ndarray, "b 2"]
    """(height, width) of the part that is not padding, in pixels."""
    instances: Instances
    samples: Int[Array | ndarray, "b"]
    """Index of each image in its source; -1 where the image only fills up the last batch of an evaluation."""


@struct.dataclass
class Detections:
    """What a detector found, best first, padded to a fixed capacity."""

    boxes: Float[Array | ndarray, "*b n 4"]
    """`xyxy` in the pixels of the images given to `predict`."""
    scores: Float[Array | ndarray, "*b n"]
    labels: Int[Array | ndarray, "*b n"]
    valid: Bool[Array | ndarray, "*b n"]


class Model(NamedTuple):
    """A model as three pure functions, in the way an optax optimiser is two. No caller sees more than these."""

    init: Callable[[Key[Array, ""], Batch], Variables]
    """(key, batch) -> variables."""
    losses: Callable[[Variables, Batch, Key[Array, ""]], tuple[Losses, Variables]]
    """(variables, batch, key) -> (named loss terms, variables with this step's batch statistics)."""
    predict: Callable[[Variables, Array, Array], Any]
    """(variables, images [b h w 3], sizes [b 2]) -> predictions, `Detections` for a detector."""
