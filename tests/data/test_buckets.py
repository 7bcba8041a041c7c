"""Buckets: which shape an image gets, and which images a batch holds."""

import collections
import math

import numpy as np
import pytest

from segjax.data import buckets as bucketing

COCO = ((800, 800), (800, 1344), (1344, 800))


def test_the_buckets_of_coco():
    assert bucketing.buckets_for(800, 1333) == COCO
    assert bucketing.buckets_for(800, 1333, steps=1) == ((800, 1344), (1344, 800))
    assert bucketing.buckets_for(600, 1000, steps=3, multiple=64) == (
        (640, 640),
        (640, 832),
        (640, 1024),
        (832, 640),
        (1024, 640),
    )


@pytest.mark.parametrize("sides", [(0, 10), (20, 10)])
def test_impossible_sides_are_refused(sides):
    with pytest.raises(ValueError, match=f"short_side={sides[0]}"):
        bucketing.buckets_for(*sides)


@pytest.mark.parametrize("buckets", [(), ((0, 8),), ((8, 8), (8, 8))])
def test_unusable_buckets_are_refused(buckets):
    with pytest.raises(ValueError, match="distinct"):
        bucketing.check_buckets(buckets)


def test_an_image_fits_with_its_aspect_ratio():
    assert bucketing.fit(480, 640, (800, 1344)) == (800, 1066, 800 / 480)
    assert bucketing.fit(2000, 1000, (800, 1344)) == (800, 400, 0.4)
    assert bucketing.fit(10, 5000, (64, 64)) == (1, 64, 64 / 5000)


def test_one_side_fits_exactly_and_the_other_falls_short_by_less_than_a_pixel(rng):
    for height, width in rng.integers(1, 3000, (500, 2)):
        for bucket in COCO:
            new_height, new_width, scale = bucketing.fit(int(height), int(width), bucket)
            assert new_height == bucket[0] or new_width == bucket[1]
            assert 1 <= new_height <= bucket[0] and 1 <= new_width <= bucket[1]
            assert abs(new_height - max(1, height * scale)) < 1 and abs(new_width - max(1, width * scale)) < 1


def test_assignment_takes_the_largest_scale_and_of_equal_ones_the_least_padding(rng):
    heights, widths = rng.integers(1, 1500, (2, 300))
    heights[:50] = widths[:50]  # squares, which every bucket shows equally large
    buckets = (*COCO, (800, 1088))
    assigned = bucketing.assign(heights, widths, buckets)
    for height, width, chosen in zip(heights, widths, assigned):
        rank = [(min(b[0] / height, b[1] / width), -b[0] * b[1]) for b in buckets]
        assert rank[chosen] == max(rank)
    assert set(assigned[:50]) == {0}
    assert bucketing.assign(480, 640, COCO) == 1


def test_padding_share_counts_the_pixels_outside_the_image(rng):
    heights, widths = rng.integers(200, 1000, (2, 20))
    shares = bucketing.padding_share(heights, widths, COCO)
    for height, width, share in zip(heights, widths, shares):
        bucket = COCO[int(bucketing.assign(height, width, COCO))]
        new_height, new_width, _ = bucketing.fit(int(height), int(width), bucket)
        assert share == pytest.approx(
            1 - new_height * new_width / math.prod(bucket), abs=5e-3
        )  # the size is rounded down
    assert bucketing.padding_share(400, 400, COCO) == 0


@pytest.fixture
def bucket_ids(rng):
    return rng.choice([0, 2, 3], size=101, p=[0.7, 0.28, 0.02])


def test_an_epoch_uses_every_image_and_fills_up_within_the_bucket(bucket_ids):
    plan = bucketing.plan_epoch(bucket_ids, batch_size=8, seed=3, epoch=0)
    assert len(plan) == bucketing.steps_per_epoch(bucket_ids, batch_size=8)
    assert len(plan) == sum(math.ceil(n / 8) for n in np.bincount(bucket_ids))
    for batch in plan:
        assert batch.indices.shape == (8,)
        assert set(bucket_ids[batch.indices]) == {batch.bucket}
    used = [(i, r) for batch in plan for i, r in zip(batch.indices.tolist(), batch.repeats.tolist())]
    assert len(set(used)) == len(used), "the same image with the same random numbers"
    assert [i for i, r in sorted(used) if r == 0] == list(range(101))
    for index, count in collections.Counter(i for i, _ in used).items():
        assert sorted(r for i, r in used if i == index) == list(range(count))


def test_an_epoch_depends_on_seed_and_epoch_alone(bucket_ids):
    def order(seed, epoch):
        plan = bucketing.plan_epoch(bucket_ids, batch_size=4, seed=seed, epoch=epoch)
        return np.concatenate([batch.indices for batch in plan]).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_buckets_are_mixed_over_the_epoch():
    plan = bucketing.plan_epoch(np.arange(400) % 2, batch_size=4, seed=0, epoch=0)
    half = [batch.bucket for batch in plan[:50]]
    assert 10 < sum(half) < 40


def test_an_evaluation_shows_each_image_once_and_fills_up_with_nothing(bucket_ids):
    plan = bucketing.plan_evaluation(bucket_ids, batch_size=8)
    indices = np.concatenate([batch.indices for batch in plan])
    assert sorted(indices[indices >= 0]) == list(range(101))
    for batch in plan:
        shown = batch.indices[batch.indices >= 0]
        assert set(bucket_ids[shown]) == {batch.bucket}
        assert (batch.indices[: len(shown)] == np.sort(shown)).all()
        assert len(batch.indices) == 8


@pytest.mark.parametrize("plan", [bucketing.plan_evaluation, bucketing.steps_per_epoch])
def test_a_batch_size_of_zero_is_refused(plan):
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        plan(np.zeros(3, int), batch_size=0)
