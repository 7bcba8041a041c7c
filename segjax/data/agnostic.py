"""A data set whose classes are taken for one: for proposals, which are of objects of any kind."""

import dataclasses

import numpy as np
from jaxtyping import UInt8

from segjax.data.source import Annotations, ImageInfo, Source


class AgnosticSource:
    """`source` with the one class "object". Implements `segjax.data.source.Source`."""

    classes = ("object",)

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name, self.keypoints, self.problems = source.name, source.keypoints, source.problems

    def __len__(self) -> int:
        return len(self._source)

    def info(self, index: int) -> ImageInfo:
        """As of the source."""
        return self._source.info(index)

    def annotations(self, index: int) -> Annotations:
        """The objects of the source, all of class 0."""
        found = self._source.annotations(index)
        return dataclasses.replace(found, labels=np.zeros_like(found.labels))

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """As of the source."""
        return self._source.image(index)
