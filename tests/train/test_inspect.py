"""The command that inspects a recipe's data."""

import numpy as np
import pytest
from PIL import Image

from segjax.data.images import read_size
from segjax.data.voc import VocSource
from train.inspect import inspect_source, main
from train.tasks import TASKS


@pytest.fixture
def root(tmp_path, rng):
    """A VOC data set of two images, one of them in val, with a fault in train."""
    root = tmp_path / "set"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for stem, name, right in (("a", "cell", 30), ("b", "virus", 700)):
        Image.fromarray(rng.integers(0, 256, (480, 640, 3), np.uint8)).save(root / "JPEGImages" / f"{stem}.png")
        box = f"<xmin>5</xmin><ymin>5</ymin><xmax>{right}</xmax><ymax>40</ymax>"
        size = "<size><width>640</width><height>480</height></size>"
        item = f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
        (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{size}{item}</annotation>")
    (root / "ImageSets/Main/train.txt").write_text("b\n")
    (root / "ImageSets/Main/val.txt").write_text("a\n")
    return root


def run(root, tmp_path, *options):
    main(["faster_rcnn_bccd", "--data.root", str(root), "--data.test", "", "--run", str(tmp_path / "run"), *options])


def test_every_part_is_shown(root, tmp_path, capsys):
    run(root, tmp_path)
    out, err = capsys.readouterr()
    assert "set_train:" in out and "set_val:" in out and out.count("decoded           1 of 1") == 2
    assert "1 x box partly outside the image (clipped): image b, annotation b#0" in out
    for part in ("train", "val"):
        assert read_size(tmp_path / "run" / f"inspect_{part}.png") > (300, 300)
        assert f"inspect_{part}.png" in err
    assert read_size(tmp_path / "run" / "inspect_batches.png") > (300, 300) and "inspect_batches.png" in err


def test_bad_data_stops_with_one_sentence(root, tmp_path):
    (root / "Annotations" / "b.xml").write_text("<annotation>")
    with pytest.raises(SystemExit, match=r"^error: The annotation file .*b\.xml.* parsed.*$"):
        run(root, tmp_path)


def test_inspect_source_is_of_use_alone(root, tmp_path):
    found = inspect_source(
        TASKS["detection"], VocSource(root, split="val"), [(96, 128)], 5, tmp_path / "new" / "sheet.png"
    )
    assert found.labels.tolist() == [0] and (tmp_path / "new" / "sheet.png").exists()
