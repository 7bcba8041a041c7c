"""COCO's instances as label maps, against the rule written out with pycocotools' own drawing."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from segjax.data.coco_label_maps import COCO_VOC_CLASSES, CocoLabelMaps
from segjax.data.source import DataError, LabelMapSource
from segjax.data.voc import VOC_CLASSES
from segjax.types import IGNORE
from tests.data.coco_files import annotation

HEIGHT, WIDTH = 40, 60


def square(x, y, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def runs(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


@pytest.fixture
def data():
    """Two images. In the first a cat and a dog overlap, two dogs too, and a crowd of zebras stands aside."""
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[30:36, 5:25] = True
    objects = [
        ((5, 5, 10, 10), 3, square(5, 5, 10), 0),
        ((10, 8, 12, 12), 17, square(10, 8, 12), 0),
        ((20, 15, 9, 9), 17, square(20, 15, 9), 0),
        ((5, 30, 20, 6), 90, runs(crowd), 1),
    ]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in (7, 8)],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}],
        "annotations": [
            annotation(i, 7, category, box, segmentation=segmentation, iscrowd=crowd)
            for i, (box, category, segmentation, crowd) in enumerate(objects, 1)
        ],
    }


@pytest.fixture
def read(tmp_path):
    def read(data, **options):
        for record in data["images"]:
            Image.new("RGB", (record["width"], record["height"])).save(tmp_path / record["file_name"])
        (tmp_path / "set.json").write_text(json.dumps(data))
        return CocoLabelMaps(tmp_path / "set.json", tmp_path, **options)

    return read


def oracle(data, category_ids):
    """One object covers: its class; several: not counted; none: background."""
    covering = np.zeros((HEIGHT, WIDTH), int)
    labels = np.zeros((HEIGHT, WIDTH), int)
    for one in data["annotations"]:
        if one["category_id"] in category_ids:
            polygons = one["segmentation"]
            found = polygons if isinstance(polygons, dict) else coco_mask.frPyObjects(polygons, HEIGHT, WIDTH)[0]
            area = np.zeros((HEIGHT, WIDTH), bool)
            area |= coco_mask.decode(found).astype(bool)
            covering += area
            labels[area] = 1 + category_ids.index(one["category_id"])
    return np.where(covering > 1, IGNORE, labels)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_rule(read, data):
    source = read(data)
    assert isinstance(source, LabelMapSource) and source.classes == ("background", "cat", "dog", "zebra")
    found, expected = source.label_map(0), oracle(data, [3, 17, 90])
    np.testing.assert_array_equal(found, expected)
    assert set(np.unique(found)) == {0, 1, 2, 3, IGNORE} and found[16, 20] == IGNORE  # where the two dogs overlap
    assert not source.label_map(1).any() and not len(source.annotations(0).labels)
    data["annotations"].reverse()
    np.testing.assert_array_equal(read(data).label_map(0), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_classes_choose_and_order(read, data):
    source = read(data, classes=("background", "dog", "cat"))
    np.testing.assert_array_equal(source.label_map(0), oracle(data, [17, 3]))
    assert (source.label_map(0)[30:36, 5:25] == 0).all()  # other categories are background


def test_an_object_without_a_mask_may_be_anywhere_in_its_box(read, data):
    data["annotations"] = [
        annotation(1, 7, 3, (5, 5, 10, 10), segmentation=square(5, 5, 10)),
        annotation(2, 7, 17, (10.5, 3, 20, 20.5)),
    ]
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[3:24, 10:31] = IGNORE
    expected[5:15, 5:15] = 1
    np.testing.assert_array_equal(read(data).label_map(0), expected)


def test_classes_that_the_file_does_not_have(read, data):
    with pytest.raises(DataError, match="set.json' has no category 'gnu'; name the classes as it does"):
        read(data, classes=("background", "cat", "gnu"))
    with pytest.raises(ValueError, match=r"begin with 'background', not with \('cat',\)"):
        read(data, classes=("cat", "dog"))


def test_the_classes_of_voc_by_the_names_of_coco():
    renamed = {"airplane": "aeroplane", "dining table": "diningtable", "motorcycle": "motorbike"}
    renamed |= {"potted plant": "pottedplant", "couch": "sofa", "tv": "tvmonitor"}
    assert tuple(renamed.get(name, name) for name in COCO_VOC_CLASSES) == ("background", *VOC_CLASSES)
