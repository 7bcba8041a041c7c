"""From a source to batches on the device: read, augment, pad, prefetch. Every batch is a pure function of the step.

The position of a run in its data is one number, the step: `train_batches(...)` started at step 87 gives what a run that
was never stopped gives from there, bit for bit, on any number of threads or worker processes.
"""

import collections
import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from segjax.data import buckets as bucketing
from segjax.data.buckets import Bucket
from segjax.data.examples import check_wanted
from segjax.data.loading import OVER_CAPACITY, EvaluationLoader, Loaded, TrainLoader
from segjax.data.mixtures import Mixture
from segjax.data.proposals import ProposalFile
from segjax.data.source import DataError, Problem, Source
from segjax.data.transforms import Fit, Transform, fit_inside
from segjax.types import Batch, Instances, Proposals


class Batches(Iterator[Batch]):
    """An iterator over batches that are made ahead of use, whose position can be saved and restored.

    Made by `train_batches` and `evaluation_batches`. Batches come in the order of their steps whatever the number of
    threads or processes, and `counts` and `source.problems` hold what was met in the batches given out so far.
    """

    def __init__(
        self,
        load: Callable[[int], Loaded],
        *,
        source: Source,
        identity: dict[str, int],
        steps_per_epoch: int,
        start: int,
        stop: int,
        threads: int,
        workers: int,
        ahead: int,
    ) -> None:
        if threads < 1 or workers < 0 or ahead < 1:
            raise ValueError(f"threads={threads} and ahead={ahead} must be at least 1, workers={workers} not negative")
        self._load, self._source, self._identity = load, source, identity
        self._stop, self._threads, self._workers, self._ahead = stop, threads, workers, ahead
        self._iterator: Any = None
        self._warned = False
        self.steps_per_epoch = steps_per_epoch
        self.step = start
        """The step whose batch comes next."""
        self.counts: collections.Counter[str] = collections.Counter()
        """Images and objects read, and objects left out by reason, in the batches given out so far."""

    def __next__(self) -> Batch:
        if self.step >= self._stop:
            raise StopIteration
        if self._iterator is None:
            self._iterator = _ahead(
                self._load, self.step, self._stop, threads=self._threads, workers=self._workers, ahead=self._ahead
            )
        try:
            loaded = _unflat(next(self._iterator))
        except Exception:
            self.close()  # grain would go on with the batch after the one that failed
            raise
        self.step += 1
        return self._account(loaded)

    def batch_at(self, step: int) -> Batch:
        """The batch of any step, made now, without moving: to look again at one that went wrong."""
        if not 0 <= step < self._stop:
            raise ValueError(f"step must lie in 0..{self._stop - 1}, not {step}")
        return self._load(step).batch

    def get_state(self) -> dict[str, int]:
        """The position, and what it is a position in; plain integers, fit for JSON."""
        return {"step": self.step, **self._identity}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position saved by `get_state`. ValueError where that was of other data, seed or batch size."""
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise ValueError(
                    f"the saved data position is of {name}={state.get(name)} but this run has {name}={value}: continue "
                    "with the old value, or start a new run"
                )
        self.close()
        self.step = state["step"]

    def close(self) -> None:
        """Stops reading ahead. The next batch starts it again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _account(self, loaded: Loaded) -> Batch:
        self.counts.update(loaded.counts)
        for problem in loaded.problems:
            self._source.problems.add(problem.kind, problem.image_id, problem.detail, action=problem.action)
        if self.counts[OVER_CAPACITY] and not self._warned:
            self._warned = True
            capacity = loaded.batch.instances.labels.shape[-1]
            warnings.warn(
                f"{self._source.name}: images with more than capacity={capacity} objects keep only the largest; "
                "raise the capacity to keep all (the number dropped is in `counts`)",
                stacklevel=3,
            )
        return loaded.batch


def train_batches(
    source: Source,
    *,
    buckets: Sequence[Bucket],
    batch_size: int,
    capacity: int,
    seed: int,
    before: Sequence[Transform] = (),
    fit: Fit = fit_inside,
    transforms: Sequence[Transform] = (),
    mixtures: Sequence[Mixture] = (),
    fields: Sequence[str] = (),
    proposals: ProposalFile | None = None,
    proposal_count: int = 0,
    start: int = 0,
    epochs: int | None = None,
    threads: int = 1,
    workers: int = 0,
    ahead: int = 2,
) -> Batches:
    """Batches of augmented training images, endless unless `epochs` is given.

    The order follows `segjax.data.buckets.plan_epoch`. A sample's random numbers come from (seed, epoch, image, how
    often the image was used before in the epoch), so nothing depends on threads, workers or where a run was stopped.
    Crowd and difficult objects are left out; of more than `capacity` objects the largest by area after augmentation
    are kept, the rest is counted and warned of once. An image that cannot be read is reported once in
    `source.problems`, and the next readable image of its bucket (by index, wrapping around) stands in for it.

    Masks are large. A batch of 8 images of 800x1344 pixels with 100 masks each holds 0.11 GB of them, eight pixels a
    byte, and each thread that makes one takes 0.4 GB at most, measured: the pixels of one image's masks at a time.

    Args:
        source: the data set.
        buckets: (height, width) of the batches' images, in pixels.
        capacity: number of objects an image can have.
        seed: not negative.
        before: applied in order before `fit`, to images of their files' size: `segjax.data.augment`.
        fit: brings an image into its bucket: `fit_inside`, `stretch`, or a `ScaleJitter`.
        transforms: applied in order after `fit`. `HorizontalFlip` must know the joints where keypoints are asked for.
        mixtures: applied in order to finished examples and others, drawn from all images and made in the same way:
            `segjax.data.mixtures`. `counts` then has the images and objects of these too.
        fields: what the objects of a batch carry beside boxes and labels, made only where asked for: "masks",
            "keypoints", and names of the source's attributes, which go to `Instances.extra`. An object without a mask
            or without keypoints is trained on as a box, and counted in `counts`. Or "label_map", for
            `Batch.label_map`; an image whose label map cannot be used is treated as one that cannot be read.
        proposals: boxes made beforehand, for `Batch.proposals`.
        proposal_count: number of them that an image can have; further ones, the worst, are left out and counted.
        start: the step to start at, counted over all epochs from 0.
        threads: how many batches are made at the same time. Decoding and resizing run in parallel.
        workers: processes in place of threads, each with `threads` threads; 0 for none. Worth their start-up (seconds)
            where transforms are slow Python. `source` and all that augments must then be picklable.
        ahead: how many finished batches may wait, for each thread.

    Raises:
        ValueError: where an option is out of range, or the source does not have one of `fields`.
        DataError: where the source has no images; from `next`, where no image of a bucket can be read.
    """
    shared = _checked(source, buckets, batch_size, capacity)
    shared["wanted"] = check_wanted(source, fields, proposals, proposal_count)
    if seed < 0 or start < 0:
        raise ValueError(f"seed={seed} and start={start} must not be negative")
    stages = dict(before=tuple(before), fit=fit, transforms=tuple(transforms), mixtures=tuple(mixtures))
    load = TrainLoader(**shared, seed=seed, **stages)
    return Batches(
        load,
        source=source,
        identity={"seed": seed, "batch_size": batch_size, "images": len(source)},
        steps_per_epoch=load.steps_per_epoch,
        start=start,
        stop=sys.maxsize if epochs is None else epochs * load.steps_per_epoch,
        threads=threads,
        workers=workers,
        ahead=ahead,
    )


def evaluation_batches(
    source: Source,
    *,
    buckets: Sequence[Bucket],
    batch_size: int,
    capacity: int = 0,
    fit: Fit = fit_inside,
    fields: Sequence[str] = (),
    proposals: ProposalFile | None = None,
    proposal_count: int = 0,
    threads: int = 1,
    workers: int = 0,
    ahead: int = 2,
) -> Batches:
    """Batches that show each image once, fitted and not augmented, bucket by bucket.

    Where there is no image, to fill up a batch or because it cannot be read (reported in `source.problems`), the batch
    holds a black one with sample -1. Boxes go back to the image file by `segjax.data.transforms.unletterbox`.

    Args: as in `train_batches`, except
        capacity: number of objects of an image that the batch carries, for a validation loss. 0, the default, carries
            none, and none of the `fields` of objects: an evaluator takes its ground truth from the source.
        fit: `fit_inside`, or `stretch` for a model that is trained so.
        fields: "label_map" is carried whatever the capacity. Such maps are resized with the images; a score of the
            image files' own pixels needs `LabelMapSource.label_map`.
    """
    shared = _checked(source, buckets, batch_size, capacity)
    carried = [field for field in fields if capacity or field == "label_map"]
    wanted = check_wanted(source, carried, proposals, proposal_count)
    load = EvaluationLoader(**shared, wanted=wanted, fit=fit)
    return Batches(
        load,
        source=source,
        identity={"batch_size": batch_size, "images": len(source)},
        steps_per_epoch=len(load.plan),
        start=0,
        stop=len(load.plan),
        threads=threads,
        workers=workers,
        ahead=ahead,
    )


def _checked(source: Source, buckets: Sequence[Bucket], batch_size: int, capacity: int) -> dict[str, Any]:
    if batch_size < 1 or capacity < 0:
        raise ValueError(f"batch_size={batch_size} must be at least 1 and capacity={capacity} not negative")
    if not len(source):
        raise DataError(f"{source.name}: there are no images to read")
    checked = bucketing.check_buckets(buckets)
    infos = [source.info(index) for index in range(len(source))]
    heights, widths = (np.array([getattr(info, side) for info in infos]) for side in ("height", "width"))
    bucket_ids = bucketing.assign(heights, widths, checked)
    return dict(source=source, buckets=checked, bucket_ids=bucket_ids, batch_size=batch_size, capacity=capacity)


def _ahead(
    load: Callable[[int], Loaded], start: int, stop: int, *, threads: int, workers: int, ahead: int
) -> grain.DatasetIterator:
    """A grain iterator over `load(start), load(start + 1), ...`, computed ahead in threads or processes."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads * ahead)
    batches = grain.MapDataset.range(start, stop).map(functools.partial(_flat, load)).to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # grain reads absl's flags when it starts processes
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead))
    return iter(batches)


def _flat(load: Callable[[int], Loaded], step: int) -> tuple[dict[str, Any], dict[str, int], list[tuple]]:
    """What `load` gives, in plain containers: between processes grain puts handles in the place of arrays."""
    batch, counts, problems = load(step)
    return _plain(batch), counts, [tuple(problem) for problem in problems]


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries, without what is None."""
    if not dataclasses.is_dataclass(value):
        return value
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {name: _plain(found) for name, found in fields.items() if found is not None}


def _unflat(element: tuple[dict[str, Any], dict[str, int], list[tuple]]) -> Loaded:
    arrays, counts, problems = element
    instances = Instances(**arrays["instances"])
    proposals = Proposals(**arrays["proposals"]) if "proposals" in arrays else None
    batch = Batch(arrays["images"], arrays["sizes"], instances, arrays["samples"], proposals, arrays.get("label_map"))
    return Loaded(batch, counts, tuple(Problem(*problem) for problem in problems))


class DevicePrefetch(Iterator[Batch]):
    """Batches on the device, sent ahead of use. Its state is that of the batches given out, not of those sent."""

    def __init__(self, batches: Batches, placement: jax.sharding.Sharding | jax.Device, *, depth: int) -> None:
        self.batches = batches
        self._placement, self._depth = placement, depth
        self._waiting: collections.deque[tuple[Batch, dict[str, int]]] = collections.deque()
        self._state = batches.get_state()

    def __next__(self) -> Batch:
        while len(self._waiting) < self._depth:
            batch = next(self.batches, None)
            if batch is None:
                break
            self._waiting.append((self._put(batch), self.batches.get_state()))
        if not self._waiting:
            raise StopIteration
        batch, self._state = self._waiting.popleft()
        return batch

    def get_state(self) -> dict[str, int]:
        """The position after the last batch given out."""
        return self._state

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position saved by `get_state`; what was sent ahead is dropped."""
        self.batches.set_state(state)
        self._waiting.clear()
        self._state = state

    def close(self) -> None:
        """Stops reading ahead and forgets what was sent ahead."""
        self.set_state(self._state)

    def _put(self, batch: Batch) -> Batch:
        count = len(batch.samples)
        if isinstance(self._placement, jax.sharding.Sharding):
            try:
                self._placement.shard_shape((count,))
            except ValueError:
                raise ValueError(
                    f"a batch of {count} images cannot be shared out over {self._placement.num_devices} devices: "
                    "make batch_size a multiple of them"
                ) from None
        return jax.device_put(batch, self._placement)


def prefetch_to_device(
    batches: Batches, placement: jax.sharding.Sharding | jax.Device, *, depth: int = 2
) -> DevicePrefetch:
    """The batches on `placement`, `depth` of them sent before they are asked for, so that copying overlaps computing.

    Args:
        placement: a device, or a sharding that divides the leading axis, `NamedSharding(mesh, PartitionSpec("data"))`.
            Images cross as bytes.
        depth: batches on the device at once, beside the one in use; at least 1.

    Raises:
        ValueError: where `depth` is below 1; from `next`, where a batch does not divide among the devices.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, not {depth}")
    return DevicePrefetch(batches, placement, depth=depth)
