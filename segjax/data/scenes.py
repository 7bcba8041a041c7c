"""The embedded data set: pictures drawn from a seed, written to disk as an ordinary COCO data set.

A scene is a textured background with shapes, handwritten digits and stick figures at many sizes, turned, overlapping
and cut by the border. Later objects hide earlier ones; all annotations describe what can be seen, and everything that
can be seen is annotated. A picture depends on (seed, index, options) and on nothing else.

The folder of a split holds:

    images/000000.jpg       the pictures
    semantic/000000.png     label maps: 0 background, else the category id
    instances.json          COCO instances: boxes, areas, RLE masks; `attributes` holds angle, digit, facing, ...
    keypoints.json          COCO person keypoints: the persons again, under the same annotation ids, with joints
    scenes.json             seed, count and options, written last: without it, the folder is not complete
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
import tqdm
from jaxtyping import Float, Int, UInt8
from pycocotools import mask as rle

from segjax.data import scene_objects as objects

VERSION = 3
"""Of the generator. Raised whenever the same seed gives other pictures, so that old ones are drawn again."""
CLASSES = objects.CLASSES
MIN_AREA = 40
"""Pixels of an object that must be visible."""
SIGMA = 0.07
"""Standard deviation of the OKS for every joint, as a share of the square root of the object's area; COCO's lie between
0.025 (eyes) and 0.107 (hips)."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What the pictures of a split look like. The defaults are clear to a person at a glance."""

    sizes: tuple[tuple[int, int], ...] = ((128, 160), (120, 160), (128, 144), (160, 128), (160, 120))
    """(height, width) in pixels; each picture takes one at random."""
    max_objects: int = 8
    empty: float = 0.03
    """Share of pictures with nothing in them."""
    overlap: float = 0.35
    """Share of objects that may be placed over others; the rest keep clear of those before them."""
    truncation: float = 0.15
    """Share of objects that may reach across the border; digits never do, half of one cannot be read."""
    min_visible: float = 0.4
    """Share of an object's area that must remain visible; of a digit at least three quarters, to be readable."""
    textured: float = 0.3
    """Share of objects, digits apart, filled with a gradient, stripes or a checker pattern; the rest is plain."""
    diameters: tuple[float, float] = (20.0, 110.0)
    """Smallest and largest extent of an object in pixels; persons begin at twice, digits at 1.3 times the smallest."""

    def __post_init__(self) -> None:
        if not self.sizes or min(min(size) for size in self.sizes) < 32:
            raise ValueError(f"sizes must be (height, width) pairs of at least 32 pixels, got {self.sizes}.")
        if self.max_objects < 1:
            raise ValueError(f"max_objects must be at least 1, got {self.max_objects}.")
        if not 8 <= self.diameters[0] <= self.diameters[1]:
            raise ValueError(f"diameters must be (smallest, largest) with smallest at least 8, got {self.diameters}.")
        for name in ("empty", "overlap", "truncation", "min_visible", "textured"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}.")


class Placed(NamedTuple):
    """One object of a finished scene."""

    label: int
    """0-based class id."""
    joints: Float[np.ndarray, "k 2"]
    """(x, y) in pixels of the image, also where they are outside it; empty for all but persons."""
    full_area: int
    """Pixels that it would cover with nothing in front of it and no border."""
    attributes: dict[str, Any]


class Scene(NamedTuple):
    """A picture and everything that is known of it."""

    image: UInt8[np.ndarray, "h w 3"]
    owner: Int[np.ndarray, "h w"]
    """Index into `objects` of the foremost object at each pixel, -1 for the background."""
    objects: list[Placed]


class Split(NamedTuple):
    """A part of the data set; different seeds give different pictures."""

    count: int
    seed: int


SPLITS = {"train": Split(1200, 1), "val": Split(200, 2)}


def scene(seed: int, index: int, options: Options = Options()) -> Scene:
    """Picture `index` of the endless series that belongs to `seed`."""
    rng = np.random.default_rng((seed, index))
    height, width = options.sizes[rng.integers(len(options.sizes))]
    image = objects.background(rng, height, width)
    owner = np.full((height, width), -1, np.int64)
    placed: list[Placed] = []
    for _ in range(_object_count(rng, options)):
        _add_object(rng, image, owner, placed, options)
    return Scene(np.round(image * 255).astype(np.uint8), owner, placed)


def _object_count(rng: objects.Rng, options: Options) -> int:
    """Mostly few: the mean of two uniform draws, the smaller of which counts twice."""
    if rng.random() < options.empty:
        return 0
    low, high = np.sort(rng.integers(1, options.max_objects + 1, 2))
    return round(float(2 * low + high) / 3)


def _diameter(rng: objects.Rng, name: str, shape: tuple[int, ...], options: Options) -> float:
    """Log-uniform between the smallest and largest extent, and never more than the picture's shorter side."""
    smallest = options.diameters[0] * {"person": 2.0, "digit": 1.3}.get(name, 1.0)
    largest = min(options.diameters[1], 0.8 * min(shape)) * (1.15 if name == "person" else 1.0)
    return float(np.exp(rng.uniform(np.log(smallest), np.log(max(largest, smallest)))))


def _add_object(
    rng: objects.Rng, image: np.ndarray, owner: np.ndarray, placed: list[Placed], options: Options, attempts: int = 12
) -> None:
    """Draws one more object where it and all others stay visible enough; none where no such place is found."""
    label = int(rng.integers(len(CLASSES)))
    overlap = rng.random() < options.overlap
    truncated = rng.random() < options.truncation and CLASSES[label] != "digit"
    for attempt in range(attempts):
        if attempt % 4 == 0:
            diameter = _diameter(rng, CLASSES[label], image.shape[:2], options)
            drawn = objects.sketch(CLASSES[label], rng, diameter=diameter)
            alpha = objects.coverage(drawn.shares)
        corner = _corner(rng, alpha, owner.shape, truncated)
        if not _fits(label, alpha, corner, owner, placed, overlap, options):
            continue
        attributes = drawn.attributes | _compose(rng, image, owner, alpha, corner, drawn, label, len(placed), options)
        full_area = int(np.count_nonzero(alpha >= 0.5))
        placed.append(Placed(label, drawn.joints + corner, full_area, attributes))
        return


def _corner(rng: objects.Rng, alpha: np.ndarray, shape: tuple[int, int], truncated: bool) -> np.ndarray:
    """(x, y) of the object's rectangle in the image: wholly inside, or with its middle anywhere inside."""
    size, room = np.array(alpha.shape[::-1]), np.array(shape[::-1])
    if truncated or (size > room).any():
        return rng.integers(0, room) - size // 2
    return rng.integers(0, room - size + 1)


def _windows(alpha: np.ndarray, corner: np.ndarray, shape: tuple[int, int]) -> tuple[tuple, tuple]:
    """Slices of the image and of the object's rectangle that lie on each other."""
    low = np.maximum(corner, 0)
    high = np.minimum(corner + alpha.shape[::-1], shape[::-1])
    (x1, y1), (x2, y2), (dx, dy) = low, np.maximum(high, low), corner
    return np.s_[y1:y2, x1:x2], np.s_[y1 - dy : y2 - dy, x1 - dx : x2 - dx]


def _fits(
    label: int,
    alpha: np.ndarray,
    corner: np.ndarray,
    owner: np.ndarray,
    placed: list[Placed],
    overlap: bool,
    options: Options,
) -> bool:
    """Whether this object, with this rectangle's corner, and all before it would stay visible enough."""
    window, part = _windows(alpha, corner, owner.shape)
    mask, below = alpha[part] >= 0.5, owner[window]
    visible, full = int(np.count_nonzero(mask)), int(np.count_nonzero(alpha >= 0.5))
    if visible < _least(label, full, options):
        return False
    if not overlap:
        return not (below[alpha[part] > 0] >= 0).any()
    hidden = np.bincount(below[mask] + 1, minlength=len(placed) + 1)[1:]
    left = np.bincount(owner.ravel() + 1, minlength=len(placed) + 1)[1:] - hidden
    return all(n >= _least(o.label, o.full_area, options) for n, o in zip(left, placed))


def _least(label: int, full_area: int, options: Options) -> float:
    """Pixels of an object that must be visible."""
    share = max(options.min_visible, 0.75) if CLASSES[label] == "digit" else options.min_visible
    return max(float(MIN_AREA), share * full_area)


def _compose(
    rng: objects.Rng,
    image: np.ndarray,
    owner: np.ndarray,
    alpha: np.ndarray,
    corner: np.ndarray,
    drawn: objects.Sketch,
    label: int,
    index: int,
    options: Options,
) -> dict[str, Any]:
    """Colours the object, draws it into `image` and `owner`, and says how it looks."""
    window, part = _windows(alpha, corner, owner.shape)
    name = CLASSES[label]
    fill = "plain"
    if name != "digit" and rng.random() < options.textured:
        fill = str(rng.choice([kind for kind in objects.FILLS if kind != "plain"]))
    palettes = objects.palettes(rng, name, image[window])
    colours = objects.paint(drawn.shares, palettes, objects.FILLS[fill](rng, *alpha.shape))
    image[window] = image[window] * (1 - alpha[part][..., None]) + colours[part]
    owner[window][alpha[part] >= 0.5] = index
    return {"fill": fill, "colour": np.round(palettes[0, objects.BODY] * 255).astype(int).tolist()}


# Annotations


def annotate(drawn: Scene) -> list[dict[str, Any]]:
    """COCO annotations of the objects of a scene, without `id` and `image_id`; persons have `keypoints`.

    Boxes are (x, y, width, height) in whole pixels, tight around the visible pixels, which are also the mask.
    Joints outside the image have visibility 0, those behind another object 1, the others 2.
    """
    return [_annotation(drawn, index) for index in range(len(drawn.objects))]


def _annotation(drawn: Scene, index: int) -> dict[str, Any]:
    placed, mask = drawn.objects[index], drawn.owner == index
    encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    area = int(np.count_nonzero(mask))
    annotation = {
        "category_id": placed.label + 1,
        "bbox": list(cv2.boundingRect(mask.astype(np.uint8))),
        "area": area,
        "segmentation": {"size": list(mask.shape), "counts": encoded["counts"].decode()},
        "iscrowd": 0,
        "attributes": placed.attributes | {"visible": round(min(area / placed.full_area, 1.0), 3)},
    }
    if len(placed.joints):
        triples = _keypoints(placed.joints, mask)
        annotation |= {"keypoints": triples, "num_keypoints": sum(v > 0 for v in triples[2::3])}
    return annotation


def _keypoints(joints: np.ndarray, mask: np.ndarray) -> list[float | int]:
    triples: list[float | int] = []
    for x, y in joints:
        column, row = int(np.floor(x)), int(np.floor(y))
        if 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]:
            triples += [round(float(x), 2), round(float(y), 2), 2 if mask[row, column] else 1]
        else:
            triples += [0, 0, 0]
    return triples


def _categories() -> list[dict[str, Any]]:
    return [{"id": i + 1, "name": name, "supercategory": "scene"} for i, name in enumerate(CLASSES)]


def _person_category() -> dict[str, Any]:
    """COCO's form: joint numbers in `skeleton` are 1-based."""
    skeleton = [[a + 1, b + 1] for a, b in objects.SKELETON]
    person = next(category for category in _categories() if category["name"] == "person")
    return person | {"keypoints": list(objects.JOINTS), "skeleton": skeleton, "sigmas": [SIGMA] * len(objects.JOINTS)}


# Files


def generate(
    folder: str | os.PathLike, *, count: int, seed: int, options: Options = Options(), workers: int | None = None
) -> None:
    """Writes `count` pictures and their annotations into `folder`, in the layout given at the top of this module.

    Args:
        folder: Made where it does not exist; files of an earlier call are overwritten.
        count: Number of pictures, at least 1.
        seed: 0 or more; with the index it decides everything in a picture.
        workers: Threads that draw; by default one for each core. The files do not depend on it.

    Raises:
        ValueError: `count`, `seed` or `workers` out of range.
    """
    if count < 1 or seed < 0 or (workers is not None and workers < 1):
        raise ValueError(f"count and workers must be 1 or more and seed 0 or more, got {count=}, {workers=}, {seed=}.")
    folder = pathlib.Path(folder)
    for name in ("images", "semantic"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index, (size, found) in enumerate(_draw_all(folder, count, seed, options, workers or os.cpu_count() or 1)):
        images.append({"id": index, "file_name": f"{index:06d}.jpg", "height": size[0], "width": size[1]})
        first = len(annotations) + 1  # never 0, which COCO's own evaluation takes for "no match"
        annotations += [{"id": first + i, "image_id": index} | one for i, one in enumerate(found)]
    _write_annotations(folder, images, annotations)
    _write_json(folder / "scenes.json", _settings(count, seed, options))


def _draw_all(folder: pathlib.Path, count: int, seed: int, options: Options, workers: int) -> Iterator[tuple]:
    def draw(index: int) -> tuple[tuple[int, int], list[dict[str, Any]]]:
        drawn = scene(seed, index, options)
        _write_pictures(folder, index, drawn)
        return drawn.owner.shape, annotate(drawn)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        yield from tqdm.tqdm(pool.map(draw, range(count)), f"drawing {folder.name}", count, unit="image")


def _write_pictures(folder: pathlib.Path, index: int, drawn: Scene) -> None:
    labels = np.array([0] + [placed.label + 1 for placed in drawn.objects], np.uint8)
    # Without chroma subsampling: small coloured objects would lose their colour to the background.
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    for path, pixels, flags in (
        (folder / "images" / f"{index:06d}.jpg", drawn.image[..., ::-1], jpeg),
        (folder / "semantic" / f"{index:06d}.png", labels[drawn.owner + 1], []),
    ):
        if not cv2.imwrite(str(path), pixels, flags):
            raise OSError(f"{path} could not be written.")


def _write_annotations(folder: pathlib.Path, images: list[dict], annotations: list[dict]) -> None:
    info = {"description": "segjax scenes", "version": str(VERSION)}
    common = {"info": info, "licenses": [], "images": images}
    joints = ("keypoints", "num_keypoints")
    instances = [{k: v for k, v in one.items() if k not in joints} for one in annotations]
    persons = [one for one in annotations if "keypoints" in one]
    _write_json(folder / "instances.json", common | {"annotations": instances, "categories": _categories()})
    _write_json(folder / "keypoints.json", common | {"annotations": persons, "categories": [_person_category()]})


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _settings(count: int, seed: int, options: Options) -> dict[str, Any]:
    """What decides the files, in the form that JSON gives back."""
    settings = {"version": VERSION, "count": count, "seed": seed, "options": dataclasses.asdict(options)}
    return json.loads(json.dumps(settings))


def is_complete(folder: str | os.PathLike, *, count: int, seed: int, options: Options = Options()) -> bool:
    """Whether `folder` holds a finished split of exactly these settings, drawn by this version of the generator."""
    try:
        return json.loads((pathlib.Path(folder) / "scenes.json").read_text()) == _settings(count, seed, options)
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def ensure(
    root: str | os.PathLike,
    *,
    splits: Mapping[str, Split] = SPLITS,
    options: Options = Options(),
    workers: int | None = None,
) -> dict[str, pathlib.Path]:
    """The folders of `splits` under `root`, by name; drawn first where one is absent, unfinished or of other settings.

    A split is drawn beside its place and moved there when finished, so a folder is never half-written. Processes that
    ask for the same root at the same time wait for each other.
    """
    root = pathlib.Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / ".lock"):
        for name, (count, seed) in splits.items():
            if is_complete(root / name, count=count, seed=seed, options=options):
                continue
            partial = root / f".{name}.partial" / name
            shutil.rmtree(partial.parent, ignore_errors=True)
            generate(partial, count=count, seed=seed, options=options, workers=workers)
            shutil.rmtree(root / name, ignore_errors=True)
            partial.rename(root / name)
            partial.parent.rmdir()
    return {name: root / name for name in splits}


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Holds a lock that the system lets go of when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
