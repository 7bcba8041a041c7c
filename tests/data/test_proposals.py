"""The file of proposals: written, read back in the order of a source, and what is said of one that does not fit."""

import dataclasses
import pickle

import numpy as np
import pytest

from segjax.data.proposals import CLIPPED, EMPTY, ProposalFile, write_proposals
from segjax.data.source import DataError, ImageInfo, Problems
from tests import tiny


class Images:
    """As much of a source as proposals need: ids and sizes of images of 60x40 pixels (width x height)."""

    name = "images"
    classes = ("a",)
    keypoints = None
    annotations = image = staticmethod(lambda index: None)

    def __init__(self, *ids):
        self.ids, self.problems = ids, Problems()

    def __len__(self):
        return len(self.ids)

    def info(self, index):
        return ImageInfo(self.ids[index], "", 40, 60)


def boxes(rng, count):
    low = rng.uniform(0, 30, (count, 2))
    return np.concatenate([low, low + rng.uniform(1, 10, (count, 2))], axis=1).astype(np.float32)


@pytest.mark.parametrize("ids", [(7, 1, 5, 9), ("b", "a", "in/d.jpg", "c")])
@pytest.mark.parametrize("scored", [False, True])
def test_what_is_written_is_read_in_the_order_of_the_source(tmp_path, rng, ids, scored):
    written = [boxes(rng, n) for n in (3, 0, 2, 4)]
    scores = [rng.normal(size=len(one)).astype(np.float32) for one in written] if scored else None
    write_proposals(tmp_path / "p.npz", ids, written, scores)
    order = [2, 0, 1]  # one image of the file is not in the source
    found = ProposalFile(tmp_path / "p.npz", Images(*(ids[i] for i in order)))
    assert len(found) == 3 and found.largest == 3 and found.faults == {CLIPPED: 0, EMPTY: 0}
    assert found.faults_text() == ""
    for reader in (found, pickle.loads(pickle.dumps(found))):
        for index, i in enumerate(order):
            there, their_scores = reader(index)
            np.testing.assert_array_equal(there, written[i])
            np.testing.assert_array_equal(their_scores, scores[i] if scored else np.zeros(len(there)))
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_boxes_are_clipped_to_their_image_and_empty_ones_dropped(tmp_path):
    rows = [[-5, -5, 10, 10], [0, 0, 60, 40], [50, 30, 70, 50], [60, 0, 70, 10], [5, 5, 5, 9], [9, 9, 3, 3]]
    rows = np.array(rows, np.float64)
    write_proposals(tmp_path / "p.npz", [1, 2], [rows, rows[1:2]], [np.arange(6), np.array([7])])
    found = ProposalFile(tmp_path / "p.npz", Images(1, 2))
    assert found.faults == {CLIPPED: 2, EMPTY: 3}
    text = "of 7 boxes 2 reach beyond their image and were clipped, 3 have no area inside it and were dropped"
    assert found.faults_text().startswith(f"{tmp_path / 'p.npz'}: {text}")
    there, scores = found(0)
    np.testing.assert_array_equal(there, [[0, 0, 10, 10], [0, 0, 60, 40], [50, 30, 60, 40]])
    assert scores.tolist() == [0, 1, 2] and found(1)[1].tolist() == [7]
    there[:] = 0
    assert found(0)[0].any()


def test_faults_are_those_of_the_data_that_is_trained_and_evaluated_on(tmp_path):
    tiny.write_coco(tmp_path)
    data = tiny.recipe(tmp_path, tmp_path).data
    sources = {part: data.source(part) for part in ("train", "val")}
    for part, source in sources.items():
        infos = [source.info(i) for i in range(len(source))]
        # Of each image all of it, and the same beside it.
        rows = [np.array([[0, 0, w, h], [w, 0, 2 * w, h]]) for _, _, h, w in infos]
        write_proposals(tmp_path / f"{part}.npz", [info.image_id for info in infos], rows)
    data = dataclasses.replace(data, proposals=("train.npz", "val.npz", ""))
    for _ in range(2):
        data.training(sources["train"], batch_size=2, seed=0).close()
        data.evaluation(sources["val"], batch_size=2).close()
    for part, count in (("train", 24), ("val", 8)):
        (problem,) = sources[part].problems  # once, however often the file is opened
        assert (problem.kind, problem.action) == ("proposals outside their images", "clipped or dropped")
        text = f"of {count} boxes 0 reach beyond their image and were clipped, {count // 2} have no area inside it"
        assert problem.detail.startswith(f"{tmp_path / part}.npz: {text}")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, rng, monkeypatch):
    path = tmp_path / "p.npz"
    write_proposals(path, [1], [boxes(rng, 2)])
    before = path.read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        write_proposals(path, [1], [boxes(rng, 3)])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


NONE = np.zeros((0, 4))


@pytest.mark.parametrize(
    "arguments", [([1, 1], [NONE, NONE]), ([1, "a"], [NONE, NONE]), ([1], []), ([1], [NONE], [np.ones(2)])]
)
def test_arguments_that_do_not_match_are_refused(tmp_path, arguments):
    with pytest.raises(ValueError, match="write_proposals"):
        write_proposals(tmp_path / "p.npz", *arguments)


def test_missing_images_are_named(tmp_path, rng):
    write_proposals(tmp_path / "p.npz", [1], [boxes(rng, 2)])
    with pytest.raises(DataError, match=r"p\.npz.*lacks 4 of the 5 images of 'images' \(2, 3, 4, \.\.\.\); make"):
        ProposalFile(tmp_path / "p.npz", Images(1, 2, 3, 4, 5))


WHOLE = {
    "image_ids": np.array([1, 2]),
    "offsets": np.array([0, 1, 3]),
    "boxes": np.tile(np.array([[0, 0, 5, 5]], np.float32), (3, 1)),
    "scores": np.ones(3, np.float32),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_ids": None}, "has no array 'image_ids'"),
        ({"boxes": None}, "has no array 'boxes'"),
        ({"image_ids": np.array([1, 1])}, "'image_ids'.*listed twice"),
        ({"image_ids": np.array([1.0, 2.0])}, "'image_ids'.*float64.*whole numbers or strings"),
        ({"boxes": np.zeros((3, 5), np.float32)}, r"'boxes'.*\[3, 5\].*float32 \[m 4\]"),
        ({"boxes": np.zeros((3, 4))}, r"'boxes'.*float64.*float32 \[m 4\]"),
        ({"offsets": np.array([0, 3])}, "'offsets'.*3 whole numbers"),
        ({"offsets": np.array([0, 2, 4])}, "'offsets'.*rise from 0 to"),
        ({"offsets": np.array([0, 4, 3])}, "'offsets'"),
        ({"offsets": np.array([0.0, 1.0, 3.0])}, "'offsets'.*float64"),
        ({"scores": np.ones(2, np.float32)}, "'scores'.*one float32 for each of the 3 boxes"),
        ({"boxes": np.full((3, 4), np.nan, np.float32)}, "3 of its boxes or scores are not finite.*image 1"),
        ({"scores": np.array([1, 2, np.inf], np.float32)}, "1 of its boxes or scores are not finite.*image 2"),
    ],
)
def test_a_malformed_array_is_named(tmp_path, change, message):
    arrays = {name: array for name, array in {**WHOLE, **change}.items() if array is not None}
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(DataError, match=rf"p\.npz.*{message}") as caught:
        ProposalFile(tmp_path / "p.npz", Images(1, 2))
    assert "\n" not in str(caught.value)


def test_what_is_no_archive_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.npz.*cannot be read: No such file"):
        ProposalFile(tmp_path / "gone.npz", Images(1))
    (tmp_path / "text.npz").write_text("boxes")
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", **{**WHOLE, "image_ids": np.array([1, "a"], object)})
    whole = tmp_path / "cut.npz"
    np.savez(whole, **WHOLE)
    whole.write_bytes(whole.read_bytes()[:300])
    for name in ("text.npz", "array.npy", "objects.npz", "cut.npz"):
        with pytest.raises(DataError, match=rf"{name}.*not a NumPy archive of plain arrays"):
            ProposalFile(tmp_path / name, Images(1, 2))
