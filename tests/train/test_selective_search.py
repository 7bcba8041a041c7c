"""The commands that write proposals by selective search and compare files of them: whole, continued, repeatable."""

import errno
import json
import multiprocessing
import time

import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from segjax.data.proposals import ProposalFile, read_proposals, write_proposals
from segjax.data.source import DataError
from tests.evaluation.listed import ListedSource, objects
from train import proposal_recall, recall_plot, selective_search
from train.selective_search import Search, search_source

QUICK = Search(mode="single", k=(20,), min_side=2)
BOX = (8, 10, 24, 22)


class Pictures(ListedSource):
    """Grey images with a box on each, but for `broken` ones; what is read is counted, and the reader can be stopped."""

    def __init__(self, count, *, first=1, broken=(), stop=None):
        super().__init__([objects([BOX], [0])] * count, size=(32, 40), ids=list(range(first, first + count)))
        self.broken, self.stop, self.read = broken, stop, []

    def image(self, index):
        if index == self.stop:
            raise KeyboardInterrupt
        if index in self.broken:
            raise DataError(f"image {self.info(index).image_id} is cut short")
        self.read.append(index)
        image = np.random.default_rng(index).integers(60, 90, (32, 40, 3), dtype=np.uint8)
        image[BOX[1] : BOX[3], BOX[0] : BOX[2]] += np.uint8(120)
        return image


class Watched(Pictures):
    """Leaves a file in `folder` for each image that is begun; all but the first wait for the file "go" there."""

    def __init__(self, count, folder):
        super().__init__(count)
        self.folder = folder

    def image(self, index):
        (self.folder / f"{index}.begun").touch()
        for _ in range(600 if index else 0):
            time.sleep(0.1)
            if (self.folder / "go").exists():
                break
        return super().image(index)


def same(a, b):
    a, b = read_proposals(a), read_proposals(b)
    assert a.image_ids == b.image_ids and a.made_by == b.made_by
    np.testing.assert_array_equal(a.offsets, b.offsets)
    np.testing.assert_array_equal(a.boxes, b.boxes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The file of six pictures, made at once by this process."""
    out = tmp_path_factory.mktemp("whole") / "deep" / "whole.npz"
    number = search_source(Pictures(6), QUICK, out=out, workers=1)
    assert number == len(read_proposals(out).boxes) > 12
    assert [path.name for path in out.parent.iterdir()] == ["whole.npz"]
    return out


def test_processes_change_nothing(whole, tmp_path, capfd):
    search_source(Pictures(6), QUICK, out=tmp_path / "p.npz", workers=2)
    same(whole, tmp_path / "p.npz")
    assert "s of CPU time an image" in capfd.readouterr().err


def test_proposals_belong_to_the_image_and_cover_its_object(whole, tmp_path, capsys):
    stored = read_proposals(whole)
    search_source(Pictures(2, first=5), QUICK, out=tmp_path / "two.npz", workers=1)
    assert read_proposals(tmp_path / "two.npz").image_ids == [5, 6]
    assert stored.image_ids == [1, 2, 3, 4, 5, 6] and json.loads(stored.made_by)["selective_search"]["k"] == [20]
    assert selective_search.recall_text(Pictures(6), whole).startswith(
        "recall of 6 objects: 1.000 at IoU 0.5, 1.000 at IoU 0.7; mean average best overlap 1.000"
    )
    assert "no object is labelled" in selective_search.recall_text(ListedSource([objects()]), whole)


def test_a_stopped_search_is_continued(whole, tmp_path, capsys):
    out = tmp_path / "p.npz"
    with pytest.raises(KeyboardInterrupt):
        search_source(Pictures(6, stop=4), QUICK, out=out, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz.partial"]
    rest = Pictures(6)
    search_source(rest, QUICK, out=out, workers=1)
    assert rest.read == [4, 5] and "4 of 6 images were searched before" in capsys.readouterr().err
    same(whole, out)
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_an_error_in_saving_ends_the_processes_and_leaves_the_other_images(tmp_path, monkeypatch):
    def full(*_, **__):
        (tmp_path / "go").touch()
        raise OSError(errno.ENOSPC, "the disk is full")

    monkeypatch.setattr(selective_search, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(selective_search, "write_proposals", full)
    before = set(multiprocessing.active_children())
    with pytest.raises(OSError, match="the disk is full") as stopped:
        search_source(Watched(40, tmp_path), QUICK, out=tmp_path / "p.npz", workers=2)
    # Looked at while the traceback, which holds what was open, is still there.
    assert set(multiprocessing.active_children()) <= before and stopped.tb is not None
    assert 1 <= len(list(tmp_path.glob("*.begun"))) < 40


def test_a_finished_file_is_not_made_again_and_takes_further_images(whole, tmp_path):
    out = tmp_path / "p.npz"
    search_source(Pictures(4), QUICK, out=out, workers=1)
    before, again, more = out.stat().st_mtime_ns, Pictures(4), Pictures(6)
    search_source(again, QUICK, out=out, workers=1)
    assert again.read == [] and out.stat().st_mtime_ns == before
    search_source(more, QUICK, out=out, workers=1)
    assert more.read == [4, 5]
    same(whole, out)
    search_source(Pictures(1), QUICK, out=out, workers=1)
    same(whole, out)


def test_an_image_that_cannot_be_read_has_no_box_and_is_tried_again(whole, tmp_path, capsys):
    out = tmp_path / "p.npz"
    search_source(Pictures(6, broken=(2,)), QUICK, out=out, workers=1)
    assert "no proposals: image 3 is cut short" in capsys.readouterr().err
    assert len(ProposalFile(out, Pictures(6))(2)[0]) == 0
    mended = Pictures(6)
    search_source(mended, QUICK, out=out, workers=1)
    assert mended.read == [2] and len(ProposalFile(out, mended)(2)[0]) > 0


def test_files_of_other_settings_are_not_touched(whole, tmp_path):
    before = whole.read_bytes()
    with pytest.raises(ValueError, match=r'was made with other settings, \{"selective_search": .*; name another file'):
        search_source(Pictures(6), Search(), out=whole, workers=1)
    assert whole.read_bytes() == before
    write_proposals(tmp_path / "p.npz", [1], [np.zeros((0, 4))])
    with pytest.raises(ValueError, match="was made by something else; name another file with --out, or remove it"):
        search_source(Pictures(1), Search(), out=tmp_path / "p.npz", workers=1)
    (tmp_path / "text.npz").write_text("none")
    with pytest.raises(DataError, match="is not a NumPy archive"):
        search_source(Pictures(1), Search(), out=tmp_path / "text.npz", workers=1)


def test_settings():
    assert len(Search().using()) == 8 and len(Search(mode="quality").using()) == 80
    chosen = Search(colour_spaces=("hue", "rgb"), similarities=("S",), k=(30,)).using()
    assert [(s.colour_space, s.similarities, s.k) for s in chosen] == [("hue", "S", 30), ("rgb", "S", 30)]
    other = Search(colour_spaces=("hue",), k=(30, 40), min_side=3)
    assert Search.that_made(other.made_by()) == other and Search.that_made(Search().made_by()) == Search()
    with pytest.raises(ValueError, match="no colour space is called 'cmyk'"):
        Search(colour_spaces=("cmyk",)).using()
    with pytest.raises(ValueError, match="--min-side -1.0 must be at least 0"):
        Search(min_side=-1.0).check()
    with pytest.raises(ValueError, match="workers=-1 must be at least 1"):
        list(selective_search.spread(str, [1], workers=-1))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A COCO data set of three pictures, as options of a command line."""
    root, source = tmp_path_factory.mktemp("coco"), Pictures(3)
    for index in range(3):
        Image.fromarray(source.image(index)).save(root / f"{index}.png")
    images = [{"id": 7 - i, "file_name": f"{i}.png", "height": 32, "width": 40} for i in range(3)]
    x, y, width, height = BOX[0], BOX[1], BOX[2] - BOX[0], BOX[3] - BOX[1]
    annotations = [
        {"id": i + 1, "image_id": 7 - i, "category_id": 1, "bbox": [x, y, width, height], "iscrowd": 0}
        for i in range(3)
    ]
    content = {"images": images, "categories": [{"id": 1, "name": "patch"}], "annotations": annotations}
    (root / "instances.json").write_text(json.dumps(content))
    return root, f"fast_rcnn_scenes --data.format coco --data.val instances.json --data.root {root}".split()


def test_the_command_line(data, capsys):
    root, options = data
    options = [*options, "--part", "val"]
    chosen = ["--mode", "single", "--k", "20", "--min-side", "2", "--workers", "1"]
    selective_search.main([*options, *chosen])
    assert "recall of 3 objects: 1.000 at IoU 0.5" in capsys.readouterr().err
    out = root / "selective_search_val.npz"
    assert read_proposals(out).image_ids == [7, 6, 5]
    # The file has what tells its images apart: ids, or paths where images are named.
    by_path = root / "by_path.npz"
    selective_search.main([*options, *chosen, "--images", str(root / "1.png"), "--out", str(by_path)])
    assert read_proposals(by_path).image_ids == [str(root / "1.png")]
    with pytest.raises(SystemExit, match="error: --images needs --out"):
        selective_search.main([*options, "--images", str(root)])

    worse = root / "worse.npz"
    boxes = np.array([[(8, 10, 24, 18)], [(-1, 0, 40, 32)]])
    write_proposals(worse, [5, 6, 7], [*boxes, np.zeros((0, 4))])
    proposal_recall.main([*options, str(out), str(worse)])
    shown, said = capsys.readouterr()
    assert f"{worse}: of 2 boxes 1 reach beyond their image and were clipped" in said and f"{out}: of" not in said
    assert "recall at IoU 0.5" in shown and "patch" in shown
    values = json.loads((root / "proposal_recall_val.json").read_text())
    assert values["selective_search_val"]["MABO@2000"] == 1 and values["selective_search_val"]["AR@2000"] == 1
    # Overlaps of 2/3, 0.15 and 0.
    assert values["worse"]["recall50@10"] == pytest.approx(1 / 3) and values["worse"]["recall70@10"] == 0
    assert values["worse"]["AR@10"] == pytest.approx(1 / 9) and values["worse"]["proposals"] == pytest.approx(2 / 3)
    assert values["worse"]["ABO/patch"] == pytest.approx((2 / 3 + 0.15) / 3)
    assert imread(root / "proposal_recall_val.png").shape[2] == 4
    with pytest.raises(SystemExit, match=r"error: The file of proposals .* it lacks 3 of the 3 images"):
        proposal_recall.main([*options, str(by_path)])


def test_files_to_compare(whole, tmp_path):
    source = Pictures(6)
    copy = tmp_path / "whole.npz"
    copy.write_bytes(whole.read_bytes())
    assert list(proposal_recall.compare([whole], source)) == ["whole"]
    assert list(proposal_recall.compare([whole, copy], source)) == [str(whole), str(copy)]
    for files in ((), (whole, whole)):
        with pytest.raises(ValueError, match="name one file of proposals or more, each once"):
            proposal_recall.compare(files, source)
    with pytest.raises(ValueError, match="listed has no labelled object"):
        proposal_recall.compare([whole], ListedSource([objects()] * 6))


def test_lines_end_where_proposals_do(tmp_path):
    source = ListedSource([objects([BOX], [0])] * 2)
    listed = [np.tile(np.float32(BOX), (n, 1)) for n in (150, 40)]
    found = proposal_recall.coverage(source, lambda index: (listed[index], np.zeros(0)))
    assert recall_plot.counts_shown(found) == [10, 100, 300]
    counts, values = recall_plot.until_all(found, found.recall(0.5))
    assert counts[0] == 1 and counts[-1] == 150 and (np.diff(counts) > 0).all() and (values == 1).all()
    none = proposal_recall.coverage(source, lambda index: (np.zeros((0, 4)), np.zeros(0)))
    assert recall_plot.counts_shown(none) == [10]
    for number in (1, 4):
        out = tmp_path / "deep" / f"{number}.png"
        recall_plot.plot_recall({str(i): none if i else found for i in range(number)}, out, title="two objects")
        picture = imread(out)[..., :3]
        assert np.ptp(picture) > 0.9 and (picture == 1).all(axis=-1).mean() > 0.5
