"""What the inspection of label maps counts, against a small data set whose numbers are worked out by hand."""

import re

import numpy as np
import pytest
from PIL import Image

from segjax.data import label_maps
from segjax.data.label_inspection import inspect, picture
from segjax.data.mask_codes import IdCode

BUCKETS = ((10, 20), (20, 10))
CLASSES = ("background", "road", "car", "bird")


@pytest.fixture
def source(tmp_path):
    """Images of 20x10 pixels: half road; all void; a tenth car and half road; ids of no class; cut short."""
    masks = np.zeros((5, 10, 20), np.uint8)
    masks[0, :5] = 1
    masks[1] = 255
    masks[2, :5], masks[2, 9] = 1, 2
    masks[3, 0, 0] = 9
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i, mask in enumerate(masks):
        noise = np.random.default_rng(i).integers(0, 256, (10, 20, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    source = label_maps.from_folders(
        tmp_path / "images", tmp_path / "masks", classes=CLASSES, code=IdCode((0, 1, 2, 3)), name="streets"
    )
    file = tmp_path / "images" / "4.png"
    file.write_bytes(file.read_bytes()[:300])
    return source


@pytest.fixture
def found(source):
    return inspect(source, buckets=BUCKETS, progress=False)


def test_pixels_and_images_of_each_class(found):
    np.testing.assert_array_equal(found.pixels, [[100, 100, 0, 0], [0] * 4, [80, 100, 20, 0], [0] * 4, [0] * 4])
    assert found.ignored.tolist() == [0, 200, 0, 0, 0] and found.usable.tolist() == [True, True, True, False, False]
    assert found.images().tolist() == [2, 2, 1, 0]
    np.testing.assert_allclose(found.shares(), [0.45, 0.5, 0.05, 0])
    assert found.ignored_share() == pytest.approx(200 / 600)


def test_weights_balance_by_median_frequency(found):
    # Of the pixels of their images: background 180 of 400, road 200 of 400, car 20 of 200; the median is 0.45.
    np.testing.assert_allclose(found.class_weights(), [1, 0.45 / 0.5, 0.45 / 0.1, 0])


def test_text_says_it_all(found):
    text = re.sub(" +", " ", found.text())
    for line in (
        "streets: 5 images with label maps of 4 classes",
        "usable 3 of 5",
        "classes an image 1.7 on average, 3 at most",
        "not counted 33.33% of the pixels; all of them in 1 images",
        " 2 car 5.00% 1 10.00% 4.5",
        " 3 bird 0.00% 0 - -",
        "the weights in order: 1, 0.9, 4.5, 0",
        "never seen: bird",
        "10 x 20 5 0.0% 1.00",
        "1 x label map with pixels of no class (image skipped): ",
        "1 x undecodable image (image skipped): ",
    ):
        assert line in text, text
    assert "masks/3.png' has ids of no class: 9 (1 pixels)" in text


def test_a_data_set_that_is_all_void(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((10, 20), 255, np.uint8)).save(tmp_path / name / "0.png")
    source = label_maps.from_folders(tmp_path / "images", tmp_path / "masks", classes=CLASSES)
    found = inspect(source, buckets=BUCKETS, progress=False)
    assert not found.class_weights().any() and found.shares().tolist() == [0] * 4 and found.ignored_share() == 1
    assert "never seen: background, road, car, bird" in found.text() and "faults: none" in found.text()


def test_the_picture_shows_pairs_and_new_classes_first(source, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "segjax.data.label_inspection.contact_sheet",
        lambda drawings, **options: drawn.update(options, drawings=drawings) or drawings[0],
    )
    picture(source, count=9, side=200)
    assert drawn["columns"] == 2 and len(drawn["drawings"]) == 3
    assert "1.png, 100.0% not counted" in drawn["captions"]
    assert all(one.shape[1] == 404 for one in drawn["drawings"])
    for seed in range(5):
        picture(source, count=1, seed=seed)
        assert drawn["captions"] != ["1.png, 100.0% not counted"]  # which shows no class at all


def test_the_picture_colours_what_is_labelled(source):
    monochrome = picture(source, count=1, columns=1, side=20, seed=0)
    left, right = monochrome[8:18, 8:28].astype(int), monochrome[8:18, 32:52].astype(int)
    changed = np.abs(left - right).sum(axis=-1) > 0
    assert changed[:5].mean() > 0.9 and not changed[5:9].any()
