"""The door for dense heads: one prediction at every place of the feature maps, and what such a head is made of.

A head is a network and four pure functions: where its predictions stand, what each should be, its losses, and how its
outputs become `Detections`. YOLO, SSD, RetinaNet and FCOS are made of nothing else. The region proposal network has the
same parts (`segjax.models.heads.rpn`), but ends in proposals.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from flax import linen as nn
from jaxtyping import Array, Int

from segjax.types import Detections, Instances, Losses

MEMBERS = ("network", "places", "targets", "losses", "decode")
"""Of a `DenseHead`."""


@runtime_checkable
class DenseHead(Protocol):
    """What a single-shot model needs of its head. A frozen dataclass with these members is one.

    An image has n places: cells, anchors or points of all maps, one after another. `network` sees a whole batch;
    `targets` and `decode` are written for one image and vmapped by the model; `losses` takes the batch, since it is
    divided by counts over the whole of it. All are traced into one program: static shapes, no side effects.
    """

    network: nn.Module
    """(maps, *, train) -> outputs, arrays that begin with [b, n], in the order of the places."""

    def places(self, size: tuple[int, int], maps: Sequence[tuple[int, int]]) -> Any:
        """Where the n predictions stand in images of this padded `size`, (height, width) in pixels.

        `maps` has the (height, width) of each map. The result is handed to the functions below as it is: any pytree of
        arrays, of which the model knows nothing. It depends on static shapes alone and so is a constant of the program.
        """
        ...

    def targets(self, outputs: Any, places: Any, instances: Instances, size: Int[Array, "2"]) -> Any:
        """What the network should say at each place, [n, ...], from the objects of the image, and whatever else the
        losses need. No gradient flows.

        `outputs` are the image's own, for assignments that look at predictions; most do not. `size` is the image's
        (height, width) without padding, in pixels.
        """
        ...

    def losses(self, outputs: Any, targets: Any, places: Any) -> Losses:
        """The loss terms of a batch, by name."""
        ...

    def decode(self, outputs: Any, places: Any, size: Int[Array, "2"]) -> Detections:
        """The detections of one image, best first, whose unpadded (height, width) is `size`."""
        ...
