"""Recall, average recall and MABO of proposals, against loops over objects and proposals."""

import numpy as np
import pytest

from segjax.data.proposals import ProposalFile, write_proposals
from segjax.evaluation.recall import COUNTS, coverage
from tests.evaluation.listed import ListedSource, objects, random_source
from tests.oracles import iou

COUNTED = (1, 4, 20)


def near_objects(rng, source):
    """Proposals for each image: its objects, moved, among boxes anywhere; none for the second image."""
    listed = []
    for index in range(len(source)):
        truth = source.annotations(index).boxes
        corners = rng.uniform(0, 250, (6, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 200, (6, 2))], axis=1)
        boxes = np.concatenate([truth + rng.normal(0, 6, truth.shape), boxes])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        listed.append(rng.permutation(boxes).astype(np.float32)[: 0 if index == 1 else None])
    return listed


@pytest.fixture
def measured(rng):
    source = random_source(rng, images=12, difficult=True)
    proposals = near_objects(rng, source)
    return source, proposals, coverage(source, lambda index: (proposals[index], np.zeros(0)), counts=COUNTED)


def plain_overlaps(source, proposals, count):
    """(best IoU with the first `count` proposals, label) of each object that counts."""
    found = []
    for index in range(len(source)):
        truth = source.annotations(index)
        for box, label, crowd, difficult in zip(truth.boxes, truth.labels, truth.crowd, truth.difficult):
            if not crowd and not difficult:
                overlaps = [iou(box.tolist(), one.tolist()) for one in proposals[index][:count]]
                found.append((max(overlaps, default=0.0), int(label)))
    return found


def test_scores_are_those_of_the_loops(measured):
    source, proposals, found = measured
    assert found.proposals.tolist() == [len(one) for one in proposals] and found.proposals[1] == 0
    steps = np.linspace(0.5, 1, 20001)
    for at, count in enumerate(COUNTED):
        plain = plain_overlaps(source, proposals, count)
        overlaps = np.array([overlap for overlap, _ in plain])
        assert found.labels.tolist() == [label for _, label in plain] and len(plain) > 20
        np.testing.assert_allclose(found.overlaps[:, at], overlaps, atol=1e-6)
        for threshold in (0.5, 0.7):
            hits = sum(overlap >= threshold for overlap in overlaps)
            assert found.recall(threshold)[at] == hits / len(plain) and found.at(count) == at
        recalls = [(overlaps >= threshold).mean() for threshold in steps]
        assert found.average_recall()[at] == pytest.approx(np.mean(recalls), abs=1e-4)
        by_class = [[overlap for overlap, label in plain if label == k] for k in range(4)]
        np.testing.assert_allclose(found.best_overlap()[:3, at], [np.mean(one) for one in by_class[:3]], rtol=1e-5)
        assert not by_class[3] and np.isnan(found.best_overlap()[3]).all()
        mabo = np.mean([np.mean(one) for one in by_class[:3]])
        assert found.mean_best_overlap()[at] == pytest.approx(mabo, rel=1e-5)
    assert (np.diff(found.overlaps, axis=1) >= 0).all() and 0.1 < found.recall(0.5)[1] < 1


def test_a_proposal_may_cover_several_objects_and_a_threshold_is_reached_exactly():
    source = ListedSource([objects([(0, 0, 10, 10), (0, 0, 10, 5), (50, 50, 60, 60)], [0, 1, 1])])
    found = coverage(source, lambda index: (np.array([(0, 0, 10, 10)], np.float32), np.zeros(1)), counts=(1, 2))
    assert found.overlaps.tolist() == [[1, 1], [0.5, 0.5], [0, 0]]
    assert found.recall(0.5).tolist() == [2 / 3] * 2 and found.recall(0.51).tolist() == [1 / 3] * 2
    assert found.average_recall().tolist() == [1 / 3] * 2
    assert found.mean_best_overlap().tolist() == [(1 + 0.25) / 2] * 2


def test_of_a_file(rng, tmp_path):
    source = random_source(rng, images=5)
    proposals = [np.clip(one, 0, 450) for one in near_objects(rng, source)]
    write_proposals(tmp_path / "p.npz", [source.info(i).image_id for i in range(5)], proposals)
    found = coverage(source, ProposalFile(tmp_path / "p.npz", source))
    direct = coverage(source, lambda index: (proposals[index], np.zeros(0)))
    np.testing.assert_array_equal(found.overlaps, direct.overlaps)
    assert found.counts == COUNTS and {1, 10, 100, 300, 1000, 2000} <= set(COUNTS) and COUNTS[-1] == 2000


def test_without_objects_scores_are_not_defined():
    source = ListedSource([objects(), objects([(0, 0, 5, 5)], [0], crowd=[True])])
    found = coverage(source, lambda index: (np.ones((3, 4), np.float32), np.zeros(3)), counts=COUNTED)
    assert found.overlaps.shape == (0, 3)
    for scores in (found.recall(0.5), found.average_recall(), found.mean_best_overlap(), found.best_overlap()[0]):
        assert np.isnan(scores).all() and scores.shape == (3,)


def test_counts_that_make_no_sense(measured):
    for counts in ((), (0, 1), (3, 3), (5, 2)):
        with pytest.raises(ValueError, match="must be numbers above 0 that rise"):
            coverage(measured[0], lambda index: (np.zeros((0, 4)), np.zeros(0)), counts=counts)
    with pytest.raises(ValueError, match=r"not measured at 7 proposals, but at \(1, 4, 20\)"):
        measured[2].at(7)
