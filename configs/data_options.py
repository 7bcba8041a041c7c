"""Which options of a recipe's data mean something to which formats."""

import dataclasses
from typing import Any

OBJECTS = {
    "scenes": {"classes"},
    "coco": {"images", "classes"},
    "voc": {"classes"},
    "yolo": {"classes", "labels", "names"},
    "lsp": {"lsp.joints", "lsp.images", "lsp.third"},
}
LABEL_MAPS = {
    "scenes": set(),
    "coco": {"images", "classes"},
    "voc": {"masks.folders"},
    "lists": {"classes", "masks.ids", "masks.ignore", "masks.colours"},
    "folders": {"classes", "masks.folders", "masks.suffix", "masks.ids", "masks.ignore", "masks.colours"},
    "tfds": {"classes", "masks.ids", "masks.ignore", "masks.colours", "tfds.name", "tfds.image", "tfds.label"},
}
"""The options that mean something to some formats, by the formats that they mean something to."""


def check_options(data: Any, fields: tuple[str, ...]) -> None:
    """`ValueError` for an option of a `Data` that would do nothing, and for what its format does not have."""
    default = type(data)()
    labelled = "label_map" in fields
    if labelled and (len(fields) > 1 or data.agnostic or data.main_object or any(data.proposals)):
        raise ValueError(
            "label maps come without objects: data.agnostic, data.main_object, data.proposals and other fields "
            f"({', '.join(field for field in fields if field != 'label_map') or 'none here'}) do not go with them."
        )
    table = LABEL_MAPS if labelled else OBJECTS
    if data.format not in table:
        has = "objects and no label maps" if labelled else "label maps and no objects"
        raise ValueError(
            f"data.format {data.format!r} has {has}, which this model learns from; use one of {', '.join(table)}."
        )
    parts = [
        (name, field.name) for name in ("masks", "tfds", "lsp") for field in dataclasses.fields(getattr(data, name))
    ]
    options = ("images", "labels", "names", "classes", *map(".".join, parts))
    for name in options:
        if name not in table[data.format] and _value(data, name) != _value(default, name):
            kind = "label maps" if labelled else "objects"
            raise ValueError(f"data.{name} means nothing to {kind} of the format {data.format!r}: leave it out.")
    if data.crops and (data.crops < 1 or "keypoints" not in fields or any(data.proposals)):
        raise ValueError(
            f"data.crops is {data.crops}: it is a factor, from 1 on, of the boxes of objects with joints, for models "
            "that learn keypoints and take no data.proposals; 0 is for whole images."
        )
    if data.masks.colours and (data.masks.ids or data.masks.ignore != default.masks.ignore):
        raise ValueError("data.masks.colours says what colours mean: data.masks.ids and .ignore are of numbers.")


def check_sides(data: Any, multiple: int) -> None:
    """`ValueError` for a bucket of a `Data` whose sides are no multiples of this."""
    for name in ("buckets", "evaluation_buckets"):
        for height, width in getattr(data, name):
            if height % multiple or width % multiple:
                raise ValueError(
                    f"data.{name} has one of {height}x{width} pixels, and this model needs sides that are multiples of "
                    f"{multiple}: round up, the rest is padding."
                )


def _value(data: Any, name: str) -> Any:
    for part in name.split("."):
        data = getattr(data, part)
    return data
