"""Segmentations of COCO's three forms against pycocotools, and what is said of malformed ones."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from segjax.data.segmentations import segmentation_fault, segmentation_to_mask
from segjax.data.source import DataError
from tests.data.coco_files import SQUARE, annotation, only_fault, run_lengths


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([[1, 2, 3, 4]], "4 coordinates"),
        ([[1, 2, 3, 4, 5, 6, 7]], "7 coordinates"),
        ([SQUARE[0], []], "0 coordinates"),
        ([1, 2, 3, 4, 5, 6], "a polygon is a int"),
        ([[1, 2, 3, 4, 5, None]], "not a number"),
        ([[1, 2, 3, 4, 5, float("nan")]], "not finite"),
        ([[1, 2, 3, 4, 5, 1e9]], "further outside"),
        ([SQUARE[0], [1, 2, 3, 4, 5, 10**400]], "further outside"),
        ("mask.png", "it is a str"),
        ({"counts": [2400]}, "lack 'size'"),
        ({"size": [60, 40], "counts": [2400]}, r"size \[60, 40\]"),
        ({"size": [40, 60], "counts": [2399]}, "add up to 2399"),
        ({"size": [40, 60], "counts": [2401, -1]}, "cut short"),
        ({"size": [40, 60], "counts": "P"}, "cut short"),
        ({"size": [40, 60], "counts": "é"}, "cut short"),
        ({"size": [40, 60], "counts": "\ud800"}, "cut short"),
        ({"size": [40, 60], "counts": "0"}, "add up to 0"),
    ],
)
def test_a_malformed_segmentation_is_dropped_and_its_box_kept(read, data, segmentation, reason):
    data["annotations"] += [
        annotation(55, 5, segmentation=segmentation),
        annotation(56, 5, segmentation=SQUARE),
    ]
    source = read(data)
    problem = only_fault(source, "malformed segmentation", 5, 55)
    assert problem.action == "segmentation dropped, box kept"
    with pytest.raises(DataError, match=reason):
        segmentation_to_mask(segmentation, 40, 60)
    assert segmentation_fault(segmentation, 40, 60) in problem.detail
    assert source.annotations(2).ids == (55, 56) and source.annotations(2).segmentations == (None, SQUARE)


def test_no_segmentation_is_no_fault(read, data):
    data["annotations"] += [annotation(55, 5, segmentation=[]), annotation(56, 5, segmentation=None)]
    source = read(data)
    assert len(source.problems) == 0 and source.annotations(2).segmentations == (None, None)


def test_compressed_run_lengths_of_any_mask_are_accepted(rng):
    for density in (0.0, 0.01, 0.5, 0.99, 1.0):
        mask = rng.random((83, 131)) < density
        runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        for counts in (runs["counts"], runs["counts"].decode()):
            np.testing.assert_array_equal(segmentation_to_mask({**runs, "counts": counts}, 83, 131), mask)
        np.testing.assert_array_equal(segmentation_to_mask(run_lengths(mask.astype(int)), 83, 131), mask)


def test_a_cut_string_never_reaches_pycocotools(rng):
    mask = rng.random((40, 60)) < 0.5
    runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    for length in range(len(runs["counts"])):
        assert segmentation_fault({**runs, "counts": runs["counts"][:length]}, 40, 60)
