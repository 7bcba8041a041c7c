"""Attributes of objects in COCO JSON: numbers and lists of numbers, and what is said of everything else."""

import numpy as np
import pytest

from segjax.data.source import DataError
from tests.data.coco_files import annotation, only_fault


@pytest.fixture
def described(data):
    """The data, three of whose objects in image 7 (annotations 100, 9 and 2) say something of themselves."""
    first, _, third, _ = data["annotations"]
    first["attributes"] = {"angle": 30, "colour": [1, 2.5, 3], "fill": "plain"}
    third["attributes"] = {"angle": -1.5, "fill": "striped", "depth": None}
    return data


def test_numbers_and_lists_of_numbers_are_read(read, described):
    source = read(described, attributes=("angle", "colour"))
    found = source.annotations(0)
    assert found.ids == (100, 9, 2) and list(found.attributes) == ["angle", "colour"] and len(source.problems) == 0
    np.testing.assert_array_equal(found.attributes["angle"], np.array([30, -1.5, np.nan], np.float32))
    np.testing.assert_array_equal(found.attributes["colour"], [[1, 2.5, 3], [np.nan] * 3, [np.nan] * 3])
    assert found.attributes["angle"].dtype == np.float32
    assert source.annotations(2).attributes["colour"].shape == (0, 3)
    found.attributes["angle"][:] = 0
    assert source.annotations(0).attributes["angle"][0] == 30


def test_nothing_is_read_unless_asked_for(read, described):
    assert read(described).annotations(0).attributes == {}


@pytest.mark.parametrize("value", ["30", True, [30], [], float("nan"), float("inf"), 10**400, {"deg": 30}])
def test_a_malformed_attribute_is_reported_and_becomes_nan(read, described, value):
    described["annotations"] += [
        annotation(55, 5, attributes={"angle": value}),
        annotation(56, 5, attributes={"angle": 7}),
    ]
    source = read(described, attributes=("angle",))
    problem = only_fault(source, "malformed attribute", 5, 55)
    assert "'angle' is not a finite number" in problem.detail and problem.action == "set to NaN"
    np.testing.assert_array_equal(source.annotations(2).attributes["angle"], np.array([np.nan, 7], np.float32))


def test_lists_have_the_length_that_most_have(read, described):
    described["annotations"] += [annotation(50 + n, 5, attributes={"colour": [0.5] * n}) for n in (2, 3, 4)]
    described["annotations"] += [annotation(60, 5, attributes="none"), annotation(61, 5, attributes={"colour": 1})]
    source = read(described, attributes=("colour", "angle"))
    assert {(p.annotation_id, p.kind) for p in source.problems} == {(n, "malformed attribute") for n in (52, 54, 61)}
    assert "'colour' is not a list of 3 finite numbers" in source.problems.summary()
    known = ~np.isnan(source.annotations(2).attributes["colour"][:, 0])
    assert [i for i, there in zip(source.annotations(2).ids, known) if there] == [53]


@pytest.mark.parametrize("name", ["fill", "depth", "size"])
def test_an_attribute_that_no_object_has_stops(read, described, name):
    with pytest.raises(DataError, match=rf"instances\.json.*attribute '{name}'.*are: angle, colour, depth, fill\.$"):
        read(described, attributes=("angle", name))
