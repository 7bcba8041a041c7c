"""What the trainer needs to know of any model besides its three functions."""

import abc
import dataclasses
from typing import Any, ClassVar, Literal, Self

from configs.data import Data
from segjax.data.source import Source
from segjax.types import Model, Variables

DType = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class System(abc.ABC):
    """A model as a recipe names it: frozen settings, and a `build`."""

    task: ClassVar[str]
    """How it is scored, reported and shown: a name in `train.tasks.TASKS`."""
    multiple: ClassVar[int] = 1
    """What the sides of the buckets that it is trained and evaluated on must be multiples of."""
    untrained: ClassVar[tuple[str, ...]] = ()
    """Those of its fields that change how it is scored and nothing that is trained."""
    dtype: DType = "float32"
    """Of convolutions and matrix products; parameters, losses and predictions are float32 always."""

    @classmethod
    def of(cls, other: "System", **changes: Any) -> Self:
        """A model of this kind with the settings that it shares with `other`, and with `changes`."""
        shared = {field.name for field in dataclasses.fields(cls)} & {field.name for field in dataclasses.fields(other)}
        return cls(**{**{name: getattr(other, name) for name in shared}, **changes})

    @property
    @abc.abstractmethod
    def fields(self) -> tuple[str, ...]:
        """What it learns from besides boxes and labels: "masks", "keypoints", "label_map", names of attributes."""

    @abc.abstractmethod
    def build(self, classes: int, joints: int = 0) -> Model:
        """The model for this many classes, whose objects have this many joints."""

    def left_out(self, source: Source, data: Data) -> dict[str, int]:
        """How many objects of `source`, the part to train on, this model cannot learn, by what is the matter with them.

        Of images as `data` shows them without augmentation. Said before training and in the report.
        """
        del source, data
        return {}

    def adapted(self, weights: Variables) -> Variables:
        """Weights of a classifier, or of a run of another model, with each part where this model has it.

        What lies there already stays, so that runs of this model can be started from too.
        """
        return weights
