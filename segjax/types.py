"""The values that travel between data, models and evaluation: fixed size, with a mask where the count varies.

Every class is a pytree. Leading axes `*b` are free: one example has none, a batch has one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, UInt8
from numpy import ndarray

Variables = dict[str, Any]
"""A model's variables: `{"params": ..., "batch_stats": ...}`; everything outside "params" is not trained."""
Losses = dict[str, Float[Array, ""]]
"""The loss terms by name, each already averaged over the batch."""
IGNORE = 255
"""In a label map: a pixel without a class, which counts neither in a loss nor in a score. Padding is such."""


@struct.dataclass
class Instances:
    """The labelled objects of an image, padded to a fixed capacity.

    Rows where `valid` is False are padding; their numbers are zero and mean nothing.
    """

    boxes: Float[Array | ndarray, "*b n 4"]
    """`xyxy` in pixels of the padded image, continuous coordinates."""
    labels: Int[Array | ndarray, "*b n"]
    """0-based class ids."""
    valid: Bool[Array | ndarray, "*b n"]
    masks: UInt8[Array | ndarray, "*b n h bytes"] | None = None
    """Masks over the padded image, eight pixels a byte (`segjax.ops.masks.pack`), where the data has them: 100 objects
    of 800 x 1344 pixels in 13 MB. An object without a mask has none of its pixels set."""
    keypoints: Float[Array | ndarray, "*b n k 3"] | None = None
    """(x, y, visibility) of each joint, where the data has them. Visibility 0: not labelled, 1: hidden, 2: visible."""
    extra: dict[str, Float[Array | ndarray, "..."]] = struct.field(default_factory=dict)
    """What else the data says of each object, by name, [*b n ...]; NaN where it says nothing of one."""


@struct.dataclass
class Proposals:
    """Candidate boxes of an image, best first, padded to a fixed count."""

    boxes: Float[Array | ndarray, "*b p 4"]
    """`xyxy` in pixels of the padded image."""
    scores: Float[Array | ndarray, "*b p"]
    """Of any scale; 0 where their maker gave none."""
    valid: Bool[Array | ndarray, "*b p"]


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
    proposals: Proposals | None = None
    """Regions made beforehand, for models that do not make their own."""
    label_map: UInt8[Array | ndarray, "b h w"] | None = None
    """The class id of each pixel, `IGNORE` where it has none, for models of semantic segmentation."""

    @property
    def given(self) -> dict[str, Proposals]:
        """What `Model.predict` is given by name beside images and sizes."""
        return {} if self.proposals is None else {"proposals": self.proposals}


@struct.dataclass
class Detections:
    """What a detector found, best first, padded to a fixed capacity."""

    boxes: Float[Array | ndarray, "*b n 4"]
    """`xyxy` in the pixels of the images given to `predict`."""
    scores: Float[Array | ndarray, "*b n"]
    labels: Int[Array | ndarray, "*b n"]
    valid: Bool[Array | ndarray, "*b n"]
    masks: Float[Array | ndarray, "*b n m m"] | None = None
    """Probability that a part of the box is the object's, m x m parts, where the model has a mask head
    (`segjax.ops.masks.paste` lays them over an image)."""
    keypoints: Float[Array | ndarray, "*b n k 3"] | None = None
    """(x, y, score) of each joint, where the model has a keypoint head. The score is the heat map's logit there."""
    extra: dict[str, Float[Array | ndarray, "..."]] = struct.field(default_factory=dict)
    """What other heads say of each detection, by name, [*b n ...]."""


@struct.dataclass
class SegmentationMap:
    """What a model of semantic segmentation says of each pixel."""

    logits: Float[Array | ndarray, "*b h w c"]
    """Unnormalised log-probabilities of the classes, float32, in the pixels of the images given to `predict`."""

    @property
    def labels(self) -> Int[Array, "*b h w"]:
        """The most probable class of each pixel."""
        return jnp.argmax(self.logits, axis=-1)

    @property
    def probabilities(self) -> Float[Array, "*b h w c"]:
        """Of the classes, adding up to 1."""
        return jax.nn.softmax(self.logits, axis=-1)


class Model(NamedTuple):
    """A model as three pure functions, in the way an optax optimiser is two. No caller sees more than these."""

    init: Callable[[Key[Array, ""], Batch], Variables]
    """(key, batch) -> variables."""
    losses: Callable[[Variables, Batch, Key[Array, ""]], tuple[Losses, Variables]]
    """(variables, batch, key) -> (named loss terms, variables with this step's batch statistics)."""
    predict: Callable[..., Any]
    """(variables, images [b h w 3], sizes [b 2], **batch.given) -> predictions: `Detections` or a `SegmentationMap`."""
