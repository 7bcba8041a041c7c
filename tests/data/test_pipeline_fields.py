"""Batches with masks, keypoints, attributes and proposals: what is asked for is there, and nothing else is made."""

import jax
import numpy as np
import pytest

from segjax.data import examples, pipeline
from segjax.data.proposals import ProposalFile, write_proposals
from segjax.data.source import Annotations, ImageInfo, KeypointNames, Problems
from segjax.data.transforms import HorizontalFlip, ScaleJitter
from segjax.ops.masks import unpack

BUCKETS = ((32, 44), (44, 32))
FIELDS = ("masks", "keypoints", "angle", "colour")
JOINTS = KeypointNames(("nose", "left", "right"), (), (0, 2, 1))


class Described:
    """A source in memory. Object j of image i is a rectangle of grey level 50 + 20 j; the last is a box alone."""

    name = "described"
    classes = ("a", "b")

    def __init__(self, count=8, *, masks=True, keypoints=True):
        self.count, self.masks, self.problems = count, masks, Problems()
        self.keypoints = JOINTS if keypoints else None

    def __len__(self):
        return self.count

    def info(self, index):
        return ImageInfo(index, f"{index}.png", *((30, 40) if index % 3 else (40, 30)))

    def rectangles(self, index):
        count = index % 4
        return np.array([[2 + 9 * j, 3 + j, 9 + 9 * j, 15 + 4 * j] for j in range(count)], np.int64).reshape(-1, 4)

    def annotations(self, index):
        boxes = self.rectangles(index)
        count = len(boxes)
        polygons = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
        points = np.zeros((count, 3, 3), np.float32)
        points[:, 1] = np.concatenate([boxes[:, :2] + 1, np.full((count, 1), 2)], axis=1)
        if count:
            polygons[-1], points[-1] = None, 0
        none = np.zeros(count, bool)
        return Annotations(
            boxes=boxes.astype(np.float32),
            labels=np.arange(count) % 2,
            areas=np.ones(count),
            crowd=none if index != 7 else np.array([True, False, False]),
            difficult=none,
            ids=tuple(range(count)),
            segmentations=tuple(polygons) if self.masks else (None,) * count,
            keypoints=points if self.keypoints else None,
            attributes={
                "angle": np.where(np.arange(count) == 1, np.nan, 10 * index + np.arange(count)).astype(np.float32),
                "colour": np.full((count, 3), index, np.float32),
            },
        )

    def image(self, index):
        info = self.info(index)
        image = np.zeros((info.height, info.width, 3), np.uint8)
        for j, (x1, y1, x2, y2) in enumerate(self.rectangles(index)):
            image[y1:y2, x1:x2] = 50 + 20 * j
        return image


@pytest.fixture
def proposals(tmp_path):
    """A file with the objects' boxes and one more as the proposals of each image, and its reader."""
    source = Described()
    boxes = [np.concatenate([source.rectangles(i), [[0, 0, 12, 9]]]) for i in range(len(source))]
    scores = [np.arange(len(one), 0, -1) for one in boxes]
    write_proposals(tmp_path / "boxes.npz", list(range(len(source))), boxes, scores)
    return ProposalFile(tmp_path / "boxes.npz", source)


def train(source=None, **changes):
    options = dict(
        buckets=BUCKETS,
        batch_size=2,
        capacity=3,
        seed=1,
        epochs=1,
        fit=ScaleJitter((0.8, 1.5)),
        transforms=(HorizontalFlip(0.5, JOINTS.flip),),
        fields=FIELDS,
    )
    return pipeline.train_batches(source or Described(), **{**options, **changes})


def test_a_batch_holds_what_is_asked_for(proposals):
    for batch in train(proposals=proposals, proposal_count=3):
        _, height, width, _ = batch.images.shape
        instances = batch.instances
        assert instances.masks.shape == (2, 3, height, -(-width // 8)) and instances.masks.dtype == np.uint8
        assert instances.keypoints.shape == (2, 3, 3, 3) and instances.keypoints.dtype == np.float32
        assert {name: values.shape for name, values in instances.extra.items()} == {
            "angle": (2, 3),
            "colour": (2, 3, 3),
        }
        for values in (instances.masks, instances.keypoints, *instances.extra.values()):
            assert not values[~instances.valid].any()
        assert batch.proposals.boxes.shape == (2, 3, 4) and not batch.proposals.boxes[~batch.proposals.valid].any()


def test_masks_joints_and_proposals_lie_where_the_pixels_are(proposals):
    masks = joints = 0
    for batch in train(proposals=proposals, proposal_count=9, epochs=6):
        unpacked = unpack(batch.instances.masks, batch.images.shape[2])
        for i, j in np.argwhere(batch.instances.valid):
            mask, box = unpacked[i, j], batch.instances.boxes[i, j]
            if mask.sum() > 20:
                # The image is resized smoothly, the mask by nearest pixel: they agree away from the edges.
                angle = batch.instances.extra["angle"][i, j]
                level = 70 if np.isnan(angle) else 50 + 20 * (angle % 10)
                assert abs(np.median(batch.images[i, ..., 0][mask]) - level) <= 5
                rows, columns = np.nonzero(mask)
                tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_allclose(tight, box, atol=1.51)
                masks += 1
            for x, y, _ in batch.instances.keypoints[i, j][batch.instances.keypoints[i, j, :, 2] > 0]:
                assert box[0] - 1e-3 <= x <= box[2] + 1e-3 and box[1] - 1e-3 <= y <= box[3] + 1e-3
                joints += 1
        for i, (boxes, valid) in enumerate(zip(batch.proposals.boxes, batch.proposals.valid)):
            for box in batch.instances.boxes[i][batch.instances.valid[i]]:
                assert np.abs(boxes[valid] - box).max(axis=1).min() < 1e-3
            assert (np.diff(batch.proposals.scores[i][valid]) < 0).all()
    assert masks > 20 and joints > 20


def test_mirrored_images_exchange_their_joints():
    plain, mirrored = (
        next(train(batch_size=8, transforms=(HorizontalFlip(p, JOINTS.flip),))).instances.keypoints[..., 2]
        for p in (0.0, 1.0)
    )
    assert plain[..., 1].any() and not plain[..., 2].any()
    np.testing.assert_array_equal(mirrored[..., 2], plain[..., 1])


def test_only_what_is_asked_for_is_made(monkeypatch, proposals):
    def refuse(*_):
        raise AssertionError("drawn")

    monkeypatch.setattr(examples, "draw_masks", refuse)
    batch = next(train(fields=()))
    assert batch.instances.masks is batch.instances.keypoints is batch.proposals is None
    assert batch.instances.extra == {}
    batch = next(train(fields=("angle",), proposals=proposals, proposal_count=2))
    assert batch.instances.masks is None and list(batch.instances.extra) == ["angle"]
    assert batch.given["proposals"] is batch.proposals


def test_attributes_stay_with_their_objects():
    for batch in train(epochs=3):
        for i, sample in enumerate(batch.samples):
            angles = batch.instances.extra["angle"][i][batch.instances.valid[i]]
            assert np.isnan(angles).sum() <= 1 and set(angles[~np.isnan(angles)] // 10) <= {float(sample)}
            assert (batch.instances.extra["colour"][i][batch.instances.valid[i]] == sample).all()


def test_objects_that_are_boxes_alone_and_proposals_too_many_are_counted(proposals):
    batches = train(fit=pipeline.fit_inside, batch_size=1, proposals=proposals, proposal_count=2)
    kept = {int(batch.samples[0]): batch for batch in batches}
    assert batches.counts["objects"] == 12 and batches.counts["crowd objects left out"] == 1
    assert batches.counts["objects without a mask"] == batches.counts["objects without keypoints"] == 6
    assert batches.counts["proposals"] == 20 and batches.counts["proposals over count"] == 2 * (1 + 2)
    instances = kept[3].instances
    assert instances.valid[0].tolist() == [True] * 3
    assert instances.masks[0].any(axis=(1, 2)).tolist() == [True, True, False]
    assert (instances.keypoints[0, ..., 2] > 0).any(axis=1).tolist() == [True, True, False]
    assert kept[7].instances.valid[0].tolist() == [True, True, False]  # the first is a crowd region
    np.testing.assert_array_equal(kept[0].proposals.valid, [[True, False]])


def test_an_evaluation_carries_fields_where_it_carries_objects(proposals):
    options = dict(buckets=BUCKETS, batch_size=3, fields=FIELDS, proposals=proposals, proposal_count=4)
    for batch in pipeline.evaluation_batches(Described(), **options):
        assert batch.instances.masks is None and batch.proposals.valid.shape == (3, 4)
        np.testing.assert_array_equal(
            batch.proposals.valid.sum(axis=1), [s % 4 + 1 if s >= 0 else 0 for s in batch.samples]
        )
    with_objects = next(pipeline.evaluation_batches(Described(), capacity=3, **options))
    assert with_objects.instances.masks.any() and with_objects.instances.keypoints.any()


def test_the_same_batches_from_processes(proposals):
    options = dict(proposals=proposals, proposal_count=3, batch_size=4)
    here, there = train(**options), train(workers=1, **options)
    for one, other in zip(list(here), list(there), strict=True):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
            np.testing.assert_array_equal(x, y)
    assert here.counts == there.counts


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Described(keypoints=False), {}, "described has no keypoints"),
        (Described(masks=False), {}, "described has no masks"),
        (Described(), dict(fields=("mask",)), "no 'mask' to put into batches.*'angle', 'colour'"),
        (Described(), dict(proposal_count=3), "proposal_count=3"),
        (Described(), dict(proposal_count=-1), "proposal_count=-1"),
    ],
)
def test_what_a_source_does_not_have_is_refused(source, options, message):
    with pytest.raises(ValueError, match=message):
        train(source, **options)


def test_proposals_need_room_and_their_own_source(proposals):
    with pytest.raises(ValueError, match="proposal_count=0"):
        train(proposals=proposals)
    with pytest.raises(ValueError, match="of 8 images, described has 7"):
        train(Described(7), proposals=proposals, proposal_count=3)
