"""Image files as a source: which are found, what is left out, and what a user is told."""

import numpy as np
import pytest
from PIL import Image

from segjax.data.files import ImageFiles, find_images
from segjax.data.source import DataError, KeypointNames, Source


def picture(path, height=6, width=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)
    return path


def test_folders_are_searched_and_files_taken_as_named(tmp_path):
    a = picture(tmp_path / "in" / "b.png")
    b = picture(tmp_path / "in" / "deep" / "a.JPG")
    odd = picture(tmp_path / "odd.png").rename(tmp_path / "odd.picture")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    assert find_images([tmp_path / "in", odd, a]) == [a, b, odd]  # named twice, found once


def test_it_is_a_source_without_objects(tmp_path):
    path = picture(tmp_path / "a.png")
    source = ImageFiles([path], classes=("cat",))
    assert isinstance(source, Source) and len(source) == 1
    assert source.info(0) == (str(path), str(path), 6, 8)
    assert source.image(0).shape == (6, 8, 3) and (source.image(0) == 90).all()
    assert source.keypoints is None and source.annotations(0).keypoints is None
    joints = KeypointNames(("head", "foot"), ((0, 1),), (0, 1))
    posed = ImageFiles([path], classes=("cat",), keypoints=joints)
    assert posed.keypoints is joints and posed.annotations(0).keypoints.shape == (0, 2, 3)
    found = source.annotations(0)
    assert found.boxes.shape == (0, 4) and len(found.labels) == 0 and found.ids == ()


def test_what_is_no_image_is_left_out_and_listed(tmp_path):
    good = picture(tmp_path / "good.png")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not a picture")
    source = ImageFiles([tmp_path], classes=("cat",))
    assert [source.info(i).path for i in range(len(source))] == [str(good)]
    (problem,) = source.problems
    assert problem.image_id == str(bad) and problem.action == "skipped" and "bad.png" in problem.detail


@pytest.mark.parametrize("name, told", [("nothing", "no file or folder .*nothing"), ("empty", "empty holds no image")])
def test_nothing_to_show_is_one_sentence(tmp_path, name, told):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=told):
        ImageFiles([tmp_path / name], classes=("cat",))


def test_only_broken_files_is_an_error(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the files can be read as an image: .*bad\.png"):
        ImageFiles([tmp_path], classes=("cat",))
