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
from segjax.data.examples import BOXES, Wanted, keep_largest, training_example
from segjax.data.masks import pack_into
from segjax.data.mixtures import LOST, Mixture
from segjax.data.source import DataError, Example, Problem, Source
from segjax.data.transforms import Fit, Transform, fit_inside, place
from segjax.types import IGNORE, Batch, Instances, Proposals

OVER_CAPACITY = "objects over capacity"
OVER_COUNT = "proposals over count"


class Loaded(NamedTuple):
    """A batch, and what happened while it was made. Travels whole from a worker process."""

    batch: Batch
    counts: dict[str, int]
    problems: tuple[Problem, ...]


def empty_batch(samples: Sequence[int], *, bucket: Bucket, capacity: int, wanted: Wanted = BOXES) -> Batch:
    """A batch of black images of full size without objects or classes, for `fill`.

    Its memory comes zeroed, so that padding costs nothing.
    """
    count, (height, width) = len(samples), bucket
    rows, joints, room = (count, capacity), wanted.joints, wanted.proposal_count
    instances = Instances(
        boxes=np.zeros((*rows, 4), np.float32),
        labels=np.zeros(rows, np.int32),
        valid=np.zeros(rows, bool),
        masks=np.zeros((*rows, height, -(-width // 8)), np.uint8) if wanted.masks else None,
        keypoints=None if joints is None else np.zeros((*rows, joints, 3), np.float32),
        extra={name: np.zeros((*rows, *shape), np.float32) for name, shape in wanted.attributes},
    )
    proposals = Proposals(
        boxes=np.zeros((count, room, 4), np.float32),
        scores=np.zeros((count, room), np.float32),
        valid=np.zeros((count, room), bool),
    )
    return Batch(
        images=np.zeros((count, height, width, 3), np.uint8),
        sizes=np.tile(np.array(bucket, np.int32), (count, 1)),
        instances=instances,
        samples=np.asarray(samples, np.int32),
        proposals=proposals if wanted.proposals is not None else None,
        label_map=np.full((count, height, width), IGNORE, np.uint8) if wanted.label_map else None,
    )


def fill(batch: Batch, i: int, example: Example) -> None:
    """Writes an example into place `i` of an empty batch; what the batch has no field for is left out.

    Of more proposals than there is room for the first, which are the best, are written.

    Raises:
        ValueError: where the image is larger than the bucket or has more objects than `capacity`.
    """
    instances, number = batch.instances, len(example.labels)
    batch.sizes[i] = place(example.image, batch.images[i])
    if batch.label_map is not None:
        place(example.label_map, batch.label_map[i])
    instances.boxes[i, :number], instances.labels[i, :number] = example.boxes, example.labels
    instances.valid[i, :number] = True
    if instances.masks is not None and number:
        pack_into(instances.masks[i], example.masks)
    if instances.keypoints is not None and number:
        instances.keypoints[i, :number] = example.keypoints
    for name, values in instances.extra.items():
        values[i, :number] = example.extra[name]
    if batch.proposals is not None:
        room = min(batch.proposals.valid.shape[1], len(example.proposals))
        batch.proposals.boxes[i, :room] = example.proposals[:room]
        batch.proposals.scores[i, :room] = example.proposal_scores[:room]
        batch.proposals.valid[i, :room] = True


def assemble(
    examples: Sequence[Example | None],
    samples: Sequence[int],
    *,
    bucket: Bucket,
    capacity: int,
    wanted: Wanted = BOXES,
) -> Batch:
    """Pads images to `bucket` and objects to `capacity`, and stacks them. None gives a black image of full size.

    ValueError as `fill`.
    """
    batch = empty_batch(samples, bucket=bucket, capacity=capacity, wanted=wanted)
    for i, example in enumerate(examples):
        if example is not None:
            fill(batch, i, example)
    return batch


@dataclasses.dataclass(frozen=True)
class Loader:
    """What training and evaluation share. Picklable, without state: each load depends on its argument alone."""

    source: Source
    buckets: tuple[Bucket, ...]
    bucket_ids: Int[np.ndarray, "n"]
    batch_size: int
    capacity: int
    wanted: Wanted
    when_unreadable = "left out"

    def read(self, index: int) -> tuple[Example, dict[str, int]] | Problem:
        """What `training_example` gives, or why it gives nothing."""
        try:
            return training_example(self.source, index, self.wanted)
        except DataError as error:
            return Problem(
                getattr(error, "kind", "undecodable image"),
                self.source.info(index).image_id,
                None,
                str(error),
                self.when_unreadable,
            )

    def empty(self, plan: PlannedBatch) -> Batch:
        """The batch of a plan with nothing in it yet, each sample -1."""
        bucket, samples = self.buckets[plan.bucket], [-1] * len(plan.indices)
        return empty_batch(samples, bucket=bucket, capacity=self.capacity, wanted=self.wanted)

    def limited(self, example: Example, counts: collections.Counter) -> Example:
        """The example with the largest of its objects; those beyond the capacity and the proposals' are counted."""
        counts[OVER_CAPACITY] += max(0, len(example.labels) - self.capacity)
        if self.wanted.proposals is not None:
            counts[OVER_COUNT] += max(0, len(example.proposals) - self.wanted.proposal_count)
        return keep_largest(example, self.capacity)


@dataclasses.dataclass(frozen=True)
class TrainLoader(Loader):
    """The training batch of a step: `segjax.data.pipeline.train_batches` without reading ahead."""

    seed: int
    fit: Fit
    transforms: tuple[Transform, ...]
    before: tuple[Transform, ...] = ()
    mixtures: tuple[Mixture, ...] = ()
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

    def augmented(
        self, planned: int, rng: np.random.Generator, *, bucket: Bucket, counts: collections.Counter, problems: list
    ) -> tuple[int, Example]:
        """One example, augmented by itself, and the index of its image, which may stand in for the planned one."""
        index, example, found = self.readable(planned, problems)
        counts.update(found, **{"images replaced": int(index != planned)})
        whole = len(example.labels)
        for transform in self.before:
            example = transform(example, rng)
        example = self.fit(example, rng, bucket)
        for transform in self.transforms:
            example = transform(example, rng)
        counts[LOST] += whole - len(example.labels)
        return index, example

    def sample(
        self, planned: int, repeat: int, *, epoch: int, bucket: Bucket, counts: collections.Counter, problems: list
    ) -> tuple[int, Example]:
        """One augmented and mixed example. Its generator belongs to the planned image, also where another stands in."""
        rng = np.random.default_rng([1, self.seed, epoch, planned, repeat])
        make = functools.partial(self.augmented, rng=rng, bucket=bucket, counts=counts, problems=problems)
        index, example = make(planned)
        for mixture in self.mixtures:
            if rng.random() < mixture.probability:
                others = [make(int(rng.integers(len(self.source))))[1] for _ in range(mixture.others)]
                example, left_out = mixture([example, *others], rng, bucket)
                counts.update(left_out)
        return index, self.limited(example, counts)

    def __call__(self, step: int) -> Loaded:
        _use_one_thread()
        epoch, plan = self.plan(step)
        bucket, counts, problems = self.buckets[plan.bucket], collections.Counter(), []
        make = functools.partial(self.sample, epoch=epoch, bucket=bucket, counts=counts, problems=problems)
        batch = self.empty(plan)
        for i, (index, repeat) in enumerate(zip(plan.indices.tolist(), plan.repeats.tolist())):
            batch.samples[i], example = make(index, repeat)
            fill(batch, i, example)  # at once: unpacked, the masks of one image can be as large as a batch's
        return Loaded(batch, dict(counts), tuple(problems))


@dataclasses.dataclass(frozen=True)
class EvaluationLoader(Loader):
    """The evaluation batch of a step: `segjax.data.pipeline.evaluation_batches` without reading ahead."""

    fit: Fit = fit_inside

    @functools.cached_property
    def plan(self) -> list[PlannedBatch]:
        return bucketing.plan_evaluation(self.bucket_ids, batch_size=self.batch_size)

    def __call__(self, step: int) -> Loaded:
        _use_one_thread()
        plan = self.plan[step]
        bucket, counts, problems = self.buckets[plan.bucket], collections.Counter(), []
        batch = self.empty(plan)
        for i, index in enumerate(plan.indices.tolist()):
            read = None if index < 0 else self.read(index)
            if isinstance(read, Problem):
                problems.append(read)
            elif read is not None:
                example, found = read
                counts.update(found)
                if not self.capacity:
                    example = keep_largest(example, 0)  # not asked for, so not in excess
                example = self.fit(example, np.random.default_rng(0), bucket)
                fill(batch, i, self.limited(example, counts))
                batch.samples[i] = index
        return Loaded(batch, dict(counts), tuple(problems))


@functools.cache
def _use_one_thread() -> None:
    """OpenCV's own threads would compete with the loader's: at these sizes they make a batch slower, not faster."""
    cv2.setNumThreads(0)
