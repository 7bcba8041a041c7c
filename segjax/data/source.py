"""What a data set is to the rest of segjax: random access to images and their annotations, and a list of its faults."""

import collections
import dataclasses
import threading
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

ImageId = int | str


class DataError(ValueError):
    """Data that cannot be used. The message says what, where (file, image id, annotation id) and how to mend it."""


class ImageInfo(NamedTuple):
    """What is known of an image without decoding it."""

    image_id: ImageId
    path: str
    height: int
    width: int


class KeypointNames(NamedTuple):
    """The joints of a data set with keypoints."""

    names: tuple[str, ...]
    skeleton: tuple[tuple[int, int], ...]
    """Pairs of 0-based joint indices that are drawn as a line."""
    flip: tuple[int, ...]
    """`flip[i]` is the joint that joint i becomes in a mirrored image."""
    sigmas: tuple[float, ...] | None = None
    """Per-joint standard deviations of the OKS (COCO keypoint evaluation), where the data set states them."""


class Vocabulary(NamedTuple):
    """What labels mean: it travels with a data set, a checkpoint and predictions, and must be the same in all."""

    classes: tuple[str, ...]
    """The class map: a class id is an index into this."""
    keypoints: KeypointNames | None = None


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The usable objects of one image, in the pixels of the image file. `n` objects, none of them padding."""

    boxes: Float[np.ndarray, "n 4"]
    """`xyxy`, inside the image, of positive size."""
    labels: Int[np.ndarray, "n"]
    """0-based ids into the source's `classes`."""
    areas: Float[np.ndarray, "n"]
    """In square pixels: of the segmentation where there is one, else of the box. COCO sorts objects by it."""
    crowd: Bool[np.ndarray, "n"]
    """COCO's iscrowd: a region of many objects. Not trained on; a detection inside it is neither right nor wrong."""
    difficult: Bool[np.ndarray, "n"]
    """VOC's difficult flag. Not trained on; not demanded and not punished in evaluation."""
    ids: tuple[int | str, ...]
    """Annotation ids, unique within the source."""
    segmentations: tuple[Any, ...]
    """COCO segmentations as stored (polygons or RLE), None where an object has none."""
    keypoints: Float[np.ndarray, "n k 3"] | None = None
    """(x, y, visibility); visibility 0: not labelled, 1: hidden, 2: visible. None where the source has no joints."""
    attributes: dict[str, Float[np.ndarray, "n ..."]] = dataclasses.field(default_factory=dict)
    """What else the source was asked to read of each object, by name: a number or a list of numbers each, float32, NaN
    for an object that lacks it."""

    @property
    def counted(self) -> Bool[np.ndarray, "n"]:
        """The objects that are trained on and asked for in evaluation: neither crowd nor difficult."""
        return ~(self.crowd | self.difficult)

    def only(self, row: int) -> "Annotations":
        """The object in this row alone."""
        one = slice(row, row + 1)
        return Annotations(
            boxes=self.boxes[one],
            labels=self.labels[one],
            areas=self.areas[one],
            crowd=self.crowd[one],
            difficult=self.difficult[one],
            ids=self.ids[one],
            segmentations=self.segmentations[one],
            keypoints=None if self.keypoints is None else self.keypoints[one],
            attributes={name: values[one] for name, values in self.attributes.items()},
        )


@dataclasses.dataclass(frozen=True)
class Example:
    """One decoded image with the objects it is trained on. What transforms take and return."""

    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, "n"]
    masks: UInt8[np.ndarray, "n h w"] | None = None
    """0 or 1, over the image; None where masks are not asked for."""
    keypoints: Float[np.ndarray, "n k 3"] | None = None
    """(x, y, visibility) as in `Annotations`; None where joints are not asked for."""
    extra: dict[str, Float[np.ndarray, "n ..."]] = dataclasses.field(default_factory=dict)
    """The attributes of the objects. Transforms carry them along and never change them."""
    proposals: Float[np.ndarray, "p 4"] | None = None
    """Regions made beforehand, `xyxy` like the boxes, best first."""
    proposal_scores: Float[np.ndarray, "p"] | None = None
    label_map: UInt8[np.ndarray, "h w"] | None = None
    """The class id of each pixel, `segjax.types.IGNORE` where it has none; None where it is not asked for."""


@runtime_checkable
class Source(Protocol):
    """Random access to a data set. Made once, read from several threads, picklable."""

    name: str
    classes: tuple[str, ...]
    """The class map: a class id is an index into this."""
    keypoints: KeypointNames | None
    problems: "Problems"

    def __len__(self) -> int:
        """Number of images."""
        ...

    def info(self, index: int) -> ImageInfo:
        """Id, path and size of image `index`, without decoding it."""
        ...

    def annotations(self, index: int) -> Annotations:
        """The usable objects of image `index`."""
        ...

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Image `index`, decoded to RGB. `DataError` where the file is missing, cut short or not of the stated size."""
        ...


@runtime_checkable
class LabelMapSource(Source, Protocol):
    """A data set whose images have a class for each pixel. It need not know any objects."""

    colours: tuple[tuple[int, int, int], ...] | None
    """RGB of each class, where the data set states them."""

    def label_map(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """The class id of each pixel of image `index`, an index into `classes`; `segjax.types.IGNORE` where none.

        `DataError` where the file is missing, cannot be read, is not of the image's size, or has ids of no class.
        """
        ...


class Problem(NamedTuple):
    """One fault in the data."""

    kind: str
    """What is wrong, in a few words that are the same for every case of it: "zero-size box"."""
    image_id: ImageId
    annotation_id: int | str | None
    detail: str
    action: str
    """What was done about it: "skipped", "clipped"."""


class Problems:
    """The faults of a data set, each kept once however often it is met. Safe to fill from several threads."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ImageId, int | str | None], Problem] = {}
        self._lock = threading.Lock()

    def add(
        self, kind: str, image_id: ImageId, detail: str, *, action: str, annotation_id: int | str | None = None
    ) -> bool:
        """Records a fault; True where it had not been recorded before."""
        problem = Problem(kind, image_id, annotation_id, detail, action)
        with self._lock:
            return self._found.setdefault((kind, image_id, annotation_id), problem) is problem

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self):
        return iter(list(self._found.values()))

    def counts(self) -> dict[str, int]:
        """Number of faults by kind, the most frequent first."""
        return dict(collections.Counter(f"{p.kind} ({p.action})" for p in self).most_common())

    def summary(self, examples: int = 3) -> str:
        """One line per kind of fault: its count and where the first `examples` of them are. Empty without faults."""
        by_kind: dict[str, list[Problem]] = {}
        for problem in self:
            by_kind.setdefault(f"{problem.kind} ({problem.action})", []).append(problem)
        lines = []
        for kind, found in sorted(by_kind.items(), key=lambda item: -len(item[1])):
            shown = "; ".join(problem.detail for problem in found[:examples])
            more = f"; and {len(found) - examples} more" if len(found) > examples else ""
            lines.append(f"{len(found)} x {kind}: {shown}{more}")
        return "\n".join(lines)

    def __getstate__(self) -> dict:
        return {"_found": dict(self._found)}

    def __setstate__(self, state: dict) -> None:
        self._found = state["_found"]
        self._lock = threading.Lock()
