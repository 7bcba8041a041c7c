"""Mosaics, sums and pasted objects: every object is where its pixels are, or counted among those left out."""

import dataclasses

import numpy as np
import pytest

from segjax.data import transforms
from segjax.data.augment import MEAN_COLOUR
from segjax.data.mixtures import COVERED, LOST, NOT_PASTED, CopyPaste, MixUp, Mosaic
from tests.data.painted import GROUND, JOINTS, assert_exact, numbers_of, painted

BUCKET = (100, 130)
SIZES = ((90, 120), (100, 80), (60, 130), (100, 130))


def several(seed, count, **options):
    """Examples with objects of different numbers, of sizes that fit the bucket."""
    rng = np.random.default_rng(seed)
    return [painted(rng, *SIZES[(seed + i) % 4], first=1 + 10 * i, **options) for i in range(count)]


def areas(image, numbers):
    return np.bincount(image[..., 0].ravel(), minlength=256)[numbers]


def mix(mixture, examples, seed):
    return mixture(examples, np.random.default_rng(seed), BUCKET)


@pytest.mark.parametrize("seed", range(25))
def test_mosaics_show_each_object_exactly_or_leave_it_out_and_count_it(seed):
    examples = several(seed, 4)
    mixed, left_out = mix(Mosaic(min_visible=0.3), examples, seed)
    assert mixed.image.shape == (*BUCKET, 3)
    # The colour of what no image reaches is the number of no object: it would be taken for one.
    beside = (mixed.image == MEAN_COLOUR).all(axis=-1)
    mixed = dataclasses.replace(mixed, image=np.where(beside[..., None], np.uint8(GROUND), mixed.image))
    assert_exact(mixed)
    everyone = [number for one in examples for number in numbers_of(one)]
    whole = np.concatenate([areas(one.image, numbers_of(one)) for one in examples])
    enough = areas(mixed.image, everyone) >= 0.3 * whole
    assert sorted(numbers_of(mixed)) == np.array(everyone)[enough].tolist()
    assert left_out == {LOST: int((~enough).sum())}


def test_mosaics_have_an_image_in_each_corner_and_a_random_centre():
    centres, orders = [], set()
    for seed in range(200):
        examples = [dataclasses.replace(one, image=np.full((*BUCKET, 3), 10 + i, np.uint8)) for i, one in enumerate(
            painted(np.random.default_rng(i), *BUCKET) for i in range(4)
        )]  # fmt: skip
        image = mix(Mosaic(), examples, seed).example.image[..., 0]
        corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert sorted(corners) == [10, 11, 12, 13]
        y, x = (image[:, 0] == corners[0]).sum(), (image[0] == corners[0]).sum()
        for part, corner in zip((image[:y, :x], image[:y, x:], image[y:, :x], image[y:, x:]), corners):
            assert (part == corner).all()
        centres.append((y / BUCKET[0], x / BUCKET[1]))
        orders.add(tuple(corners))
    assert np.min(centres) >= 0.19 and np.max(centres) <= 0.81 and len(orders) == 24
    np.testing.assert_allclose(np.mean(centres, axis=0), 0.5, atol=0.04)


@pytest.mark.parametrize("seed", range(4))
def test_images_of_a_mosaic_touch_its_centre(seed):
    """A pixel beside the centre is the corner of each image that is nearest to it, whatever the image's size."""
    examples = several(3, 4, masks=False, keypoints=False)
    mixed = mix(Mosaic(centre=(0.8, 0.8)), examples, seed).example
    y, x = 80, 104  # some of the images are lower, some narrower than that
    order = np.random.default_rng(seed)
    order.uniform(size=2)
    quadrants = [examples[i] for i in order.permutation(4)]
    np.testing.assert_array_equal(mixed.image[y - 1, x - 1], quadrants[0].image[-1, -1])
    np.testing.assert_array_equal(mixed.image[y - 1, x], quadrants[1].image[-1, 0])
    np.testing.assert_array_equal(mixed.image[y, x - 1], quadrants[2].image[0, -1])
    np.testing.assert_array_equal(mixed.image[y, x], quadrants[3].image[0, 0])


@pytest.mark.parametrize("seed", range(6))
def test_mixup_adds_images_and_keeps_all_objects(seed):
    one, other = several(seed, 2)
    mixed, left_out = mix(MixUp(), [one, other], seed)
    weight = np.random.default_rng(seed).beta(1.5, 1.5)
    height, width = np.maximum(one.image.shape[:2], other.image.shape[:2])
    planes = np.tile(np.array(MEAN_COLOUR, float), (2, height, width, 1))
    for plane, example in zip(planes, (one, other)):
        plane[: example.image.shape[0], : example.image.shape[1]] = example.image
    np.testing.assert_allclose(mixed.image, weight * planes[0] + (1 - weight) * planes[1], atol=0.51)
    assert left_out == {} and numbers_of(mixed) == numbers_of(one) + numbers_of(other)
    np.testing.assert_array_equal(mixed.boxes, np.concatenate([one.boxes, other.boxes]))
    np.testing.assert_array_equal(mixed.keypoints, np.concatenate([one.keypoints, other.keypoints]))
    for mask, (example, i) in zip(mixed.masks, [(one, i) for i in range(6)] + [(other, i) for i in range(6)]):
        inside = mask[: example.image.shape[0], : example.image.shape[1]]
        np.testing.assert_array_equal(inside, example.masks[i])
        assert inside.sum() == mask.sum()


def test_weights_of_mixup_follow_alpha():
    black, white = (
        dataclasses.replace(painted(np.random.default_rng(0), 20, 30), image=np.full((20, 30, 3), level, np.uint8))
        for level in (0, 255)
    )
    for alpha, spread in ((1.5, 0.25), (50.0, 0.05)):  # of Beta(a, a): 1 / sqrt(4 (2 a + 1))
        weights = [1 - mix(MixUp(alpha=alpha), [black, white], s).example.image[0, 0, 0] / 255 for s in range(400)]
        assert abs(np.mean(weights) - 0.5) < 0.03 and np.std(weights) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("seed", range(40))
def test_pasted_objects_cover_what_is_below(seed):
    base, other = several(seed, 2)
    mixed, left_out = mix(CopyPaste(min_visible=0.25), [base, other], seed)
    pasted = [number for number in numbers_of(mixed) if number > 10]
    assert 1 <= len(pasted) == 6 - left_out[NOT_PASTED]
    assert_exact(with_visible_joints(mixed))
    before, after = areas(base.image, numbers_of(base)), areas(mixed.image, numbers_of(base))
    kept = (after > 0) & (after >= 0.25 * before)
    assert [number for number in numbers_of(mixed) if number <= 10] == np.array(numbers_of(base))[kept].tolist()
    assert left_out[COVERED] == (~kept).sum()
    # Every pixel is the other image's where it has one of the pasted objects, and else the base's.
    plane = np.tile(np.array(MEAN_COLOUR, np.uint8), (*mixed.image.shape[:2], 1))
    plane[: base.image.shape[0], : base.image.shape[1]] = base.image
    above = np.isin(other.image[..., 0], pasted)
    plane[: other.image.shape[0], : other.image.shape[1]][above] = other.image[above]
    np.testing.assert_array_equal(mixed.image, plane)


def with_visible_joints(example):
    """Joints of the base are hidden where pasted pixels are, and only there."""
    for number, points in zip(numbers_of(example), example.keypoints):
        for joint, (x, y, visibility) in enumerate(points[: JOINTS - 1]):
            at = example.image[int(y), int(x), 0]
            assert visibility == (1 if joint == 2 or at != number else 2)
    return example


def test_pasted_objects_are_random_subsets():
    counts = [len(numbers_of(mix(CopyPaste(), several(0, 2), seed).example)) for seed in range(200)]
    pasted = [6 - mix(CopyPaste(), several(0, 2), seed).left_out[NOT_PASTED] for seed in range(200)]
    assert set(pasted) == {1, 2, 3, 4, 5, 6} and abs(np.mean(pasted) - 3.5) < 0.4 and max(counts) > 8


def test_objects_without_masks_are_not_pasted_and_stay_boxes():
    base, other = several(1, 2)
    base.masks[2] = other.masks[3] = 0
    for seed in range(30):
        mixed, left_out = mix(CopyPaste(min_visible=0.5), [base, other], seed)
        assert 14 not in numbers_of(mixed) and left_out[NOT_PASTED] >= 1
        pixels = base.image[..., 0] == 3
        seen = (mixed.image[: base.image.shape[0], : base.image.shape[1], 0] == 3)[pixels].mean()
        assert (3 in numbers_of(mixed)) == (seen >= 0.5)
        if 3 in numbers_of(mixed):
            i = numbers_of(mixed).index(3)
            np.testing.assert_array_equal(mixed.boxes[i], base.boxes[2])
            assert not mixed.masks[i].any()
    other.masks[:] = 0
    mixed, left_out = mix(CopyPaste(), [base, other], 0)
    assert mixed is base and left_out == {NOT_PASTED: 6, COVERED: 0}


@pytest.mark.parametrize(("mixture", "count"), [(Mosaic(), 4), (MixUp(), 2), (CopyPaste(), 2)])
def test_what_holds_of_all(mixture, count):
    assert mixture.others == count - 1
    examples = several(2, count)
    copies = [dataclasses.replace(one, image=one.image.copy(), masks=one.masks.copy()) for one in examples]
    once, again = (mix(mixture, examples, 7).example for _ in range(2))
    for name in ("image", "boxes", "labels", "masks", "keypoints"):
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))
        for example, copy in zip(examples, copies):
            np.testing.assert_array_equal(getattr(example, name), getattr(copy, name))  # nothing is written to
    assert not np.array_equal(once.image, mix(mixture, examples, 8).example.image)
    assert once.boxes.dtype == once.keypoints.dtype == once.extra["number"].dtype == np.float32
    assert once.labels.dtype == np.int32 and once.image.dtype == once.masks.dtype == np.uint8
    nothing = [transforms.select(one, np.zeros(6, bool)) for one in examples]
    assert mix(mixture, nothing, 0).example.boxes.shape == (0, 4)
    for change, words in (
        (lambda one: dict(label_map=one.image[..., 0]), "label maps"),
        (lambda one: dict(proposals=one.boxes), "proposals"),
    ):
        with pytest.raises(ValueError, match=f"{type(mixture).__name__} mixes .* cannot mix {words}"):
            mix(mixture, [dataclasses.replace(one, **change(one)) for one in examples], 0)


def test_pasting_needs_masks():
    with pytest.raises(ValueError, match="CopyPaste pastes objects by their masks: ask for the field 'masks'"):
        mix(CopyPaste(), several(0, 2, masks=False), 0)


@pytest.mark.parametrize("make", [
    lambda: Mosaic(1.5),
    lambda: Mosaic(centre=(0.8, 0.2)),
    lambda: Mosaic(min_size=-1.0),
    lambda: Mosaic(min_visible=2.0),
    lambda: MixUp(alpha=0.0),
    lambda: MixUp(-1.0),
    lambda: CopyPaste(min_visible=-1.0),
    lambda: CopyPaste(7.0),
])  # fmt: skip
def test_values_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match=r"^(Mosaic|MixUp|CopyPaste): "):
        make()
