"""The pipeline: the same batches however they are made, nothing dropped in silence, batches on the devices in time."""

import itertools
import json

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from segjax.data import loading, pipeline
from segjax.data.source import Annotations, DataError, Example, ImageInfo, Problems
from segjax.data.transforms import ColorJitter, HorizontalFlip, ScaleJitter, unletterbox

BUCKETS = ((32, 32), (32, 48))


class Rectangles:
    """A source in memory: image i is of grey level i + 1, with some boxes in it. Images in `broken` cannot be read."""

    name = "rectangles"
    classes = ("a", "b", "c")
    keypoints = None

    def __init__(self, count=21, broken=()):
        self.count, self.broken, self.problems = count, frozenset(broken), Problems()

    def __len__(self):
        return self.count

    def info(self, index):
        return ImageInfo(f"image{index}", f"{index}.png", 40, 40 if index % 3 else 60)

    def annotations(self, index):
        count = index % 5
        offset = 2.0 * np.arange(count)[:, None]
        none = np.zeros(count, bool)
        return Annotations(
            boxes=(np.array([[1, 2, 21, 12]]) + offset * [1, 1, 0, 1]).astype(np.float32),
            labels=np.arange(count) % 3,
            areas=np.full(count, 200.0, np.float32),
            crowd=none if index != 4 else np.array([True, False, False, False]),
            difficult=none if index != 9 else np.array([False, True, False, False]),
            ids=tuple(range(count)),
            segmentations=(None,) * count,
        )

    def image(self, index):
        if index in self.broken:
            raise DataError(f"'{index}.png' cannot be decoded")
        info = self.info(index)
        return np.full((info.height, info.width, 3), index + 1, np.uint8)


def train(source=None, **changes):
    options = dict(
        buckets=BUCKETS,
        batch_size=4,
        capacity=4,
        seed=5,
        fit=ScaleJitter((0.7, 1.4)),
        transforms=(HorizontalFlip(), ColorJitter()),
    )
    return pipeline.train_batches(Rectangles() if source is None else source, **{**options, **changes})


def take(batches, count):
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_same(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
            np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def reference():
    """The batches of two epochs and one step, in order."""
    batches = train()
    assert batches.steps_per_epoch == 6
    return take(batches, 13)


def test_a_batch_holds_what_its_contract_says(reference):
    for batch in reference:
        assert batch.images.dtype == np.uint8 and batch.images.shape in {(4, 32, 32, 3), (4, 32, 48, 3)}
        assert batch.sizes.dtype == batch.samples.dtype == batch.instances.labels.dtype == np.int32
        assert batch.instances.boxes.dtype == np.float32 and batch.instances.boxes.shape == (4, 4, 4)
        for image, size, sample in zip(batch.images, batch.sizes, batch.samples):
            height, width = size
            assert (image[height:] == 0).all() and (image[:, width:] == 0).all()
            assert abs(int(image[:height, :width].max()) - (sample + 1)) <= 0.5 * (sample + 1) + 1
        limit = np.concatenate([batch.sizes, batch.sizes], axis=1)[:, None, ::-1]
        boxes, valid = batch.instances.boxes, batch.instances.valid
        assert ((boxes >= 0) & (boxes <= limit)).all()
        assert (boxes[valid][:, 2:] > boxes[valid][:, :2]).all()
        assert (boxes[~valid] == 0).all() and (batch.instances.labels[~valid] == 0).all()


def test_every_image_comes_once_an_epoch(reference):
    for epoch in (reference[:6], reference[6:12]):
        samples = np.concatenate([batch.samples for batch in epoch])
        assert set(samples) == set(range(21))
        assert len(samples) == 24  # 7 images in one bucket and 14 in the other, in batches of 4
    orders = [[batch.samples.tolist() for batch in epoch] for epoch in (reference[:6], reference[6:12])]
    assert orders[0] != orders[1]


def test_an_image_drawn_again_is_augmented_again(reference):
    once = np.concatenate([batch.samples for batch in reference[:6]])
    repeated = np.flatnonzero(np.bincount(once) > 1)
    assert len(repeated) == 3
    differ = 0
    for index in repeated:
        seen = [image for batch in reference[:6] for image, i in zip(batch.images, batch.samples) if i == index]
        differ += not np.array_equal(seen[0], seen[1])
    assert differ == 3


def test_the_same_batches_from_the_step_alone(reference):
    batches = train()
    assert_same([batches.batch_at(step) for step in (12, 0, 7)], [reference[12], reference[0], reference[7]])
    assert batches.step == 0
    with pytest.raises(ValueError, match="step must lie in"):
        batches.batch_at(-1)


@pytest.mark.parametrize("options", [dict(threads=3, ahead=3), dict(threads=1, ahead=1)])
def test_the_same_batches_from_any_number_of_threads(reference, options):
    assert_same(take(train(**options), 13), reference)


def test_the_same_batches_and_reports_from_processes(reference):
    batches = train(Rectangles(), workers=2)
    assert_same(take(batches, 4), reference[:4])
    in_thread = train()
    take(in_thread, 4)
    assert batches.counts == in_thread.counts


@pytest.mark.parametrize("stop", [1, 4, 6, 11])
def test_a_restored_run_goes_on_where_it_stopped(reference, stop):
    batches = train()
    take(batches, stop)
    state = json.loads(json.dumps(batches.get_state()))
    restored = train(threads=2)
    next(restored)  # it may have started somewhere else
    restored.set_state(state)
    assert_same(take(restored, 13 - stop), reference[stop:])
    assert_same(take(train(start=stop), 13 - stop), reference[stop:])


def test_a_position_in_other_data_is_refused():
    state = train().get_state()
    for other in (dict(batch_size=2), dict(seed=6), dict(source=Rectangles(20))):
        with pytest.raises(ValueError, match="saved data position"):
            train(**other).set_state(state)


def test_other_seeds_give_other_batches(reference):
    other = take(train(seed=6), 1)[0]
    assert not np.array_equal(other.samples, reference[0].samples)


def test_epochs_end():
    assert len(list(train(epochs=2))) == 12
    assert list(train(epochs=1, start=6)) == []


def test_crowd_and_difficult_objects_are_left_out_and_counted():
    batches = train(fit=pipeline.fit_inside, epochs=1, batch_size=1)
    numbers = {int(batch.samples[0]): int(batch.instances.valid.sum()) for batch in batches}
    assert numbers == {i: i % 5 - (i in (4, 9)) for i in range(21)}
    assert batches.counts["crowd objects left out"] == batches.counts["difficult objects left out"] == 1
    assert batches.counts["images"] == 21 and batches.counts["objects"] == 40
    assert batches.counts["objects over capacity"] == 0


def test_objects_lost_to_crops_are_counted():
    batches = train(fit=ScaleJitter((3.0, 3.0), min_visible=0.9), epochs=1)
    kept = sum(int(batch.instances.valid.sum()) for batch in batches)
    lost, counts = batches.counts["objects lost to crops"], batches.counts
    assert lost > 0
    assert kept == counts["objects"] - counts["crowd objects left out"] - counts["difficult objects left out"] - lost


def test_objects_over_capacity_are_counted_and_warned_of_once():
    batches = train(fit=pipeline.fit_inside, capacity=2, epochs=1, batch_size=1)
    with pytest.warns(UserWarning, match="capacity=2") as warned:
        seen = {int(batch.samples[0]): batch for batch in batches}
    assert len(warned) == 1
    usable = [i % 5 - (i in (4, 9)) for i in range(21)]
    assert batches.counts["objects over capacity"] == sum(max(0, n - 2) for n in usable) > 0
    assert all(int(batch.instances.valid.sum()) == min(2, usable[i]) for i, batch in seen.items())


def test_the_largest_objects_are_kept_in_their_order():
    boxes = np.array([[0, 0, 2, 2], [0, 0, 9, 9], [0, 0, 1, 1], [0, 0, 5, 5], [1, 1, 6, 6]], np.float32)
    example = Example(image=np.zeros((9, 9, 3), np.uint8), boxes=boxes, labels=np.arange(5, dtype=np.int32))
    assert loading.keep_largest(example, 3).labels.tolist() == [1, 3, 4]
    assert loading.keep_largest(example, 2).labels.tolist() == [1, 3]
    assert loading.keep_largest(example, 0).labels.tolist() == []
    assert loading.keep_largest(example, 5) is example


def test_an_unreadable_image_is_replaced_and_reported_once():
    source = Rectangles(broken={3, 6, 20})
    batches = take(train(source), 12)
    assert len(source.problems) == 3
    assert {problem.image_id for problem in source.problems} == {"image3", "image6", "image20"}
    assert source.problems.counts() == {"undecodable image (replaced)": 3}
    whole = take(train(Rectangles()), 12)
    # Images of the same bucket are 0, 3, 6, ... and 1, 2, 4, 5, ..., and after the last comes the first.
    stand_in = {3: 9, 6: 9, 20: 1}
    for batch, unbroken in zip(batches, whole):
        assert batch.samples.tolist() == [stand_in.get(i, i) for i in unbroken.samples.tolist()]
    assert_same(take(train(Rectangles(broken={3, 6, 20}), threads=2), 12), batches)


def test_a_bucket_of_unreadable_images_stops_with_one_sentence():
    batches = train(Rectangles(broken=range(0, 21, 3)), transforms=())
    with pytest.raises(DataError, match="rectangles: none of the 7 images of the 32x48 bucket can be read"):
        list(itertools.islice(batches, 6))
    failed = batches.step
    with pytest.raises(DataError, match="none of the 7 images"):  # and is not passed over
        next(batches)
    assert batches.step == failed
    batches.close()


def test_an_evaluation_shows_each_image_once():
    source = Rectangles(broken={7})
    batches = pipeline.evaluation_batches(source, buckets=BUCKETS, batch_size=4, threads=2)
    seen = list(batches)
    assert len(seen) == batches.steps_per_epoch == 6
    samples = np.concatenate([batch.samples for batch in seen])
    assert sorted(samples[samples >= 0]) == [i for i in range(21) if i != 7]
    assert (samples == -1).sum() == 4  # three fill up, one cannot be read
    assert [(p.image_id, p.action) for p in source.problems] == [("image7", "left out")]
    for batch in seen:
        assert batch.instances.valid.shape == (4, 0)
        for image, size, sample in zip(batch.images, batch.sizes, batch.samples):
            assert (image[: size[0], : size[1]] == sample + 1).all()
            assert (size > 0).all()


def test_evaluation_boxes_return_to_the_pixels_of_the_file():
    source = Rectangles()
    for batch in pipeline.evaluation_batches(source, buckets=BUCKETS, batch_size=4, capacity=4):
        for i, sample in enumerate(batch.samples.tolist()):
            if sample >= 0:
                annotations, info = source.annotations(sample), source.info(sample)
                expected = annotations.boxes[~(annotations.crowd | annotations.difficult)]
                boxes = batch.instances.boxes[i][batch.instances.valid[i]]
                returned = unletterbox(boxes, tuple(batch.sizes[i].tolist()), (info.height, info.width))
                np.testing.assert_allclose(returned, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [dict(batch_size=0), dict(capacity=-1), dict(seed=-1), dict(start=-1), dict(ahead=0)]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        train(**options)


def test_a_source_without_images_is_refused():
    with pytest.raises(DataError, match="rectangles: there are no images"):
        train(Rectangles(0))


@pytest.fixture(scope="module")
def sharding():
    return NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))


def test_batches_are_sent_to_all_devices_ahead_of_use(sharding):
    batches = train(batch_size=8, epochs=1)
    expected = list(train(batch_size=8, epochs=1))
    sent = pipeline.prefetch_to_device(batches, sharding, depth=2)
    first = next(sent)
    assert batches.step == 2
    assert first.images.sharding.is_equivalent_to(sharding, 4)
    assert {shard.data.shape[0] for shard in first.images.addressable_shards} == {1}
    assert_same([first, *sent], expected)


def test_the_position_of_sent_batches_is_that_of_the_ones_given_out(reference):
    device = jax.devices()[3]
    sent = pipeline.prefetch_to_device(train(), device, depth=3)
    given = [next(sent) for _ in range(5)]
    assert given[0].samples.devices() == {device}
    state = sent.get_state()
    assert state["step"] == 5
    sent.close()
    assert_same([next(sent)], reference[5:6])
    again = pipeline.prefetch_to_device(train(), device)
    again.set_state(state)
    assert_same(take(again, 2), reference[5:7])


def test_a_batch_that_does_not_divide_among_devices_is_refused(sharding):
    with pytest.raises(ValueError, match="batch of 4 images cannot be shared out over 8 devices"):
        next(pipeline.prefetch_to_device(train(), sharding))
    with pytest.raises(ValueError, match="depth"):
        pipeline.prefetch_to_device(train(), sharding, depth=0)
