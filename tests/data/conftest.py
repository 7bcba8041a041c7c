"""A small COCO data set that the tests of the COCO reader change and read."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from segjax.data.coco import CocoSource
from tests.data.coco_files import SQUARE, annotation, run_lengths


@pytest.fixture
def data(rng):
    """Three images of 60x40 pixels (width x height); ids and categories out of order and with gaps."""
    mask = np.zeros((40, 60), int)
    mask[5:15, 20:50] = 1
    compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    compressed["counts"] = compressed["counts"].decode()
    return {
        "images": [
            {"id": i, "file_name": f"{name}.png", "height": 40, "width": 60}
            for i, name in ((7, "seven"), (1, "one"), (5, "five"))
        ],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}],
        "annotations": [
            annotation(100, 7, 90, (10.5, 10.25, 9, 9.5), segmentation=SQUARE, area=99.5, iscrowd=0),
            annotation(4, 1, 3, (20, 5, 30, 10), segmentation=compressed, area=300.0, iscrowd=1),
            annotation(9, 7, 17, (20, 5, 30, 10), segmentation=run_lengths(mask), iscrowd=0),
            annotation(2, 7, 3, (0, 0, 60, 40)),
        ],
    }


@pytest.fixture
def write(tmp_path):
    """Writes COCO data and an image for each of its entries; gives the paths of both."""

    def write(data):
        (tmp_path / "images").mkdir(exist_ok=True)
        for name in ("one", "five", "seven"):
            Image.new("RGB", (60, 40), (200, 100, 50)).save(tmp_path / "images" / f"{name}.png")
        file = tmp_path / "instances.json"
        file.write_text(data if isinstance(data, str) else json.dumps(data))
        return file, tmp_path / "images"

    return write


@pytest.fixture
def read(write):
    return lambda data, **options: CocoSource(*write(data), **options)
