"""One step's batch, made from the step's number alone: plan, read, augment, pad. No threads, no state, no grain."""

import collections
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Int

from segjax.data import buckets as bucketing
from segjax.data.buckets import Bucket, PlannedBatch
from segjax.data.source import DataError, Example, Problem, Source
from segjax.data.transforms import Fit, Transform, fit_inside, place, select
from segjax.types import Batch, Instances

OVER_CAPACITY = "objects over capacity"


class Loaded(NamedTuple):
    """A batch, and what happened while it was made. Travels whole from a worker process."""

    batch: Batch
    counts: dict[str, int]
    problems: tuple[Problem, ...]


def training_example(source: Source, index: int) -> tuple[Example, dict[str, int]]:
    """Image `index` with the objects that are trained on: neither crowd regions nor difficult ones.

    Returns the example, and the numbers of objects, and of those left out, by reason. DataError as `Source.image`.
    """
    annotations = source.annotations(index)
    usable = ~(annotations.crowd | annotations.difficult)
    example = Example(
        image=source.image(index),
        boxes=annotations.boxes.astype(np.float32),
        labels=annotations.labels.astype(np.int32),
    )
    counts = {
        "images": 1,
        "objects": len(usable),
        "crowd objects left out": int(annotations.crowd.sum()),
        "difficult objects left out": int((annotations.difficult & ~annotations.crowd).sum()),
    }
    return select(example, usable), counts


def keep_largest(example: Example, capacity: int) -> Example:
    """The example with its `capacity` largest boxes by area, in their order; of equal ones the first."""
    if len(example.labels) <= capacity:
        return example
    width, height = (example.boxes[:, 2:] - example.boxes[:, :2]).T
    largest = np.argsort(-width * height, kind="stable")[:capacity]
    keep = np.zeros(len(example.labels), bool)
    keep[largest] = True
    return select(example, keep)


def assemble(examples: Sequence[Example | None], samples: Sequence[int], *, bucket: Bucket, capacity: int) -> Batch:
    """Pads images to `bucket` and objects to `capacity`, and stacks them. None gives a black image of full size.

    Raises:
        ValueError: where an image is larger than the bucket or has more objects than `capacity`.
    """
    count = len(examples)
    images = np.zeros((count, *bucket, 3), np.uint8)  # memory that comes zeroed, so that padding costs nothing
    sizes = np.tile(np.array(bucket, np.int32), (count, 1))
    boxes = np.zeros((count, capacity, 4), np.float32)
    labels = np.zeros((count, capacity), np.int32)
    valid = np.zeros((count, capacity), bool)
    for i, example in enumerate(examples):
        if example is not None:
            sizes[i] = place(example.image, images[i])
            number = len(example.labels)
            boxes[i, :number], labels[i, :number], valid[i, :number] = example.boxes, example.labels, True
    return Batch(images, sizes, Instances(boxes, labels, valid), np.asarray(samples, np.int32))


@dataclasses.dataclass(frozen=True)
class Loader:
    """What training and evaluation share. Picklable, without state: each load depends on its argument alone."""

    source: Source
    buckets: tuple[Bucket, ...]
    bucket_ids: Int[np.ndarray, "n"]
    batch_size: int
    capacity: int
    when_unreadable = "left out"

    def read(self, index: int) -> tuple[Example, dict[str, int]] | Problem:
        """What `training_example` gives, or why it gives nothing."""
        try:
            return training_example(self.source, index)
        except DataError as error:
            return Problem(
                getattr(error, "kind", "undecodable image"),
                self.source.info(index).image_id,
                None,
                str(error),
                self.when_unreadable,
            )


@dataclasses.dataclass(frozen=True)
class TrainLoader(Loader):
    """The training batch of a step: `segjax.data.pipeline.train_batches` without reading ahead."""

    seed: int
    fit: Fit
    transforms: tuple[Transform, ...]
    when_unreadable = "replaced"

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        return bucketing.steps_per_epoch(self.bucket_ids, batch_size=self.batch_size)

    def plan(self, step: int) -> tuple[int, PlannedBatch]:
        """The epoch of a step, and its batch. The plans of the last two epochs are kept, as threads read across."""
        epoch, i = divmod(step, self.steps_per_epoch)
        plans = self.__dict__.setdefault("_plans", {})
        plan = plans.get(epoch)
        if plan is None:
            plan = bucketing.plan_epoch(self.bucket_ids, batch_size=self.batch_size, seed=self.seed, epoch=epoch)
            for old in [known for known in tuple(plans) if abs(known - epoch) > 1]:
                plans.pop(old, None)
            plans[epoch] = plan
        return epoch, plan[i]

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_plans"}

    def candidates(self, index: int) -> Iterator[int]:
        """Image `index`, then those that can stand in for it: the others of its bucket by index, wrapping around."""
        yield index
        same = np.flatnonzero(self.bucket_ids == self.bucket_ids[index])
        yield from map(int, np.roll(same, -np.searchsorted(same, index))[1:])

    def readable(self, index: int, problems: list[Problem]) -> tuple[int, Example, dict[str, int]]:
        """The first of the candidates for image `index` that can be read; the others go to `problems`."""
        tried: list[Problem] = []
        for candidate in self.candidates(index):
            read = self.read(candidate)
            if not isinstance(read, Problem):
                problems += tried
                return candidate, *read
            tried.append(read)
        height, width = self.buckets[int(self.bucket_ids[index])]
        raise DataError(
            f"{self.source.name}: none of the {len(tried)} images of the {height}x{width} bucket can be read; "
            f"the first of them: {tried[0].detail}"
        )

    def sample(
        self, planned: int, repeat: int, *, epoch: int, bucket: Bucket, counts: collections.Counter, problems: list
    ) -> tuple[int, Example]:
        """One augmented example. Its generator belongs to the planned image, also where another one stands in."""
        index, example, found = self.readable(planned, problems)
        counts.update(found, **{"images replaced": int(index != planned)})
        rng = np.random.default_rng([1, self.seed, epoch, planned, repeat])
        whole = len(example.labels)
        example = self.fit(example, rng, bucket)
        for transform in self.transforms:
            example = transform(example, rng)
        present = len(example.labels)
        counts.update({"objects lost to crops": whole - present, OVER_CAPACITY: max(0, present - self.capacity)})
        return index, keep_largest(example, self.capacity)

    def __call__(self, step: int) -> Loaded:
        _use_one_thread()
        epoch, plan = self.plan(step)
        bucket, counts, problems = self.buckets[plan.bucket], collections.Counter(), []
        make = functools.partial(self.sample, epoch=epoch, bucket=bucket, counts=counts, problems=problems)
        made = [make(int(index), int(repeat)) for index, repeat in zip(plan.indices, plan.repeats)]
        samples, examples = zip(*made)
        batch = assemble(examples, samples, bucket=bucket, capacity=self.capacity)
        return Loaded(batch, dict(counts), tuple(problems))


@dataclasses.dataclass(frozen=True)
class EvaluationLoader(Loader):
    """The evaluation batch of a step: `segjax.data.pipeline.evaluation_batches` without reading ahead."""

    @functools.cached_property
    def plan(self) -> list[PlannedBatch]:
        return bucketing.plan_evaluation(self.bucket_ids, batch_size=self.batch_size)

    def __call__(self, step: int) -> Loaded:
        _use_one_thread()
        plan = self.plan[step]
        bucket, counts, problems = self.buckets[plan.bucket], collections.Counter(), []
        examples: list[Example | None] = [None] * len(plan.indices)
        samples = [-1] * len(plan.indices)
        for slot, index in enumerate(map(int, plan.indices)):
            read = None if index < 0 else self.read(index)
            if isinstance(read, Problem):
                problems.append(read)
            elif read is not None:
                example, found = read
                counts.update(found)
                if self.capacity:
                    counts[OVER_CAPACITY] += max(0, len(example.labels) - self.capacity)
                examples[slot] = keep_largest(fit_inside(example, np.random.default_rng(0), bucket), self.capacity)
                samples[slot] = index
        batch = assemble(examples, samples, bucket=bucket, capacity=self.capacity)
        return Loaded(batch, dict(counts), tuple(problems))


@functools.cache
def _use_one_thread() -> None:
    """OpenCV's own threads would compete with the loader's: at these sizes they make a batch slower, not faster."""
    cv2.setNumThreads(0)
