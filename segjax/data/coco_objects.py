"""What COCO JSON says of an object beside its box and class: joints and attributes, checked record by record."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from segjax.data.joints import COCO_SIGMAS, flip_pairs
from segjax.data.source import DataError, KeypointNames, Problems

Record = dict[str, Any]


def numbers(values: Any, count: int) -> Any:
    """`values` where it is a list of `count` finite numbers, else None."""
    if not isinstance(values, list) or len(values) != count or not {int, float}.issuperset(map(type, values)):
        return None
    return values if all(-1e30 < v < 1e30 for v in values) else None


def read_joints(categories: Sequence[Record], *, file: str) -> KeypointNames:
    """The joints that the categories of a file name: one list for all of them.

    The standard deviations of the OKS are the category's `sigmas`, which is no part of COCO's format but stated by some
    data sets; else COCO's own, where the joints are COCO's; else None.

    Raises:
        DataError: there is no list of joints or more than one, or it is malformed.
    """
    try:
        stated = {_stated_joints(record) for record in categories if record.get("keypoints")}
    except (TypeError, ValueError) as error:
        message = (
            "'keypoints', 'skeleton' and 'sigmas' in 'categories' are not lists of names, of pairs of their numbers "
            "and of as many positive numbers"
        )
        raise DataError(f"{file!r}: {message}.") from error
    if len(stated) != 1:
        raise DataError(
            f"{file!r}: {len(stated)} lists of joints in 'categories', keypoints=True needs exactly one; "
            "use a person_keypoints file or keypoints=False."
        )
    (joints,) = stated
    if joints.sigmas is None and joints.names == tuple(COCO_SIGMAS):
        return joints._replace(sigmas=tuple(COCO_SIGMAS.values()))
    return joints


def _stated_joints(category: Record) -> KeypointNames:
    """Names, 0-based skeleton and sigmas of a category's joints. TypeError or ValueError where they are malformed."""
    names = tuple(category["keypoints"])
    skeleton = tuple((a - 1, b - 1) for a, b in category.get("skeleton") or ())
    known = range(len(names))
    if not all(isinstance(name, str) for name in names) or not all(a in known and b in known for a, b in skeleton):
        raise ValueError
    sigmas = category.get("sigmas")
    if sigmas is not None:
        if numbers(sigmas, len(names)) is None or min(sigmas) <= 0:
            raise ValueError
        sigmas = tuple(float(sigma) for sigma in sigmas)
    return KeypointNames(names, skeleton, flip_pairs(names), sigmas)


def read_keypoints(records: Sequence[Record], joints: int, *, problems: Problems) -> Float[np.ndarray, "n k 3"]:
    """The keypoints of each object, zero where it has none; malformed ones are reported and left zero."""
    points = np.zeros((len(records), joints, 3), np.float32)
    for i, record in enumerate(records):
        stated = record.get("keypoints")
        if stated is None:
            continue
        values = numbers(stated, points[i].size)
        if values is None or not np.isin(values[2::3], (0, 1, 2)).all():
            detail = f"image {record['image_id']}, annotation {record['id']}: 'keypoints' is not {points[i].size} "
            problems.add(
                "malformed keypoints",
                record["image_id"],
                detail + "finite numbers (x, y, visibility 0, 1 or 2)",
                action="keypoints dropped, box kept",
                annotation_id=record["id"],
            )
        else:
            points[i] = np.asarray(values).reshape(-1, 3)
    return points


def read_attributes(
    records: Sequence[Record], names: Sequence[str], *, problems: Problems, file: str
) -> dict[str, Float[np.ndarray, "n ..."]]:
    """`record["attributes"][name]` of each object: a number, or a list of as many numbers as most objects have.

    NaN where an object does not state it or states null, and where it is malformed, which is reported.

    Raises:
        DataError: no object has an attribute of such a name with a number or numbers in it.
    """
    faults: dict[int, list[str]] = {}
    values = {name: _read_attribute(records, name, faults, file) for name in names}
    for i, found in sorted(faults.items()):
        record = records[i]
        problems.add(
            "malformed attribute",
            record["image_id"],
            f"image {record['image_id']}, annotation {record['id']}: {' and '.join(found)}",
            action="set to NaN",
            annotation_id=record["id"],
        )
    return values


def _read_attribute(records: Sequence[Record], name: str, faults: dict[int, list[str]], file: str) -> np.ndarray:
    """The values of one attribute; what is wrong with an object's goes to `faults`, by the object's number."""
    stated = [_attributes(record).get(name) for record in records]
    shapes = [_shape(value) for value in stated]
    common = collections.Counter(shape for shape in shapes if shape is not None).most_common(1)
    if not common:
        there = sorted({str(key) for record in records for key in _attributes(record)})
        raise DataError(
            f"{file!r}: no object has a number or a list of numbers as its attribute {name!r}; "
            f"the attributes that there are: {', '.join(there) or 'none'}."
        )
    ((shape, _),) = common
    values = np.full((len(records), *shape), np.nan, np.float32)
    wanted = f"a list of {shape[0]} finite numbers" if shape else "a finite number"
    for i, (value, found) in enumerate(zip(stated, shapes)):
        if found == shape:
            values[i] = value
        elif value is not None:
            faults.setdefault(i, []).append(f"attribute {name!r} is not {wanted}")
    return values


def _attributes(record: Record) -> Record:
    attributes = record.get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def _shape(value: Any) -> tuple[int, ...] | None:
    """() for a finite number, (length,) for a list of such; None for all else."""
    if isinstance(value, list):
        return (len(value),) if value and numbers(value, len(value)) else None
    return () if numbers([value], 1) else None
