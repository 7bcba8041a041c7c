"""What a recipe says of a model of semantic segmentation: frozen dataclasses with a `build`, one for each family."""

import abc
import dataclasses
from typing import ClassVar

from configs.system import System
from segjax.models.segmenter import PixelLoss


@dataclasses.dataclass(frozen=True)
class Segmenter(System, abc.ABC):
    """What models of semantic segmentation share."""

    task: ClassVar[str] = "segmentation"
    loss: PixelLoss = PixelLoss()

    @property
    def fields(self) -> tuple[str, ...]:
        """Label maps."""
        return ("label_map",)
