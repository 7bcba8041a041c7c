"""What the embedded data set draws: shapes, handwritten digits and stick figures, with textures and colours.

Every object is drawn once, enlarged, as a map of parts (outside, body, outline, ...). Averaging blocks of that map
gives soft edges; a palette of one colour per part gives its look. Nothing here knows of images or annotations.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

CLASSES = ("person", "digit", "circle", "rectangle", "triangle", "star", "ring", "cross")
JOINTS = (
    *("head", "neck", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
BONES = (
    *(("head", "neck"), ("neck", "left_shoulder"), ("neck", "right_shoulder"), ("left_shoulder", "left_elbow")),
    *(("left_elbow", "left_wrist"), ("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist")),
    *(("left_shoulder", "left_hip"), ("right_shoulder", "right_hip"), ("left_hip", "right_hip")),
    *(
        ("left_hip", "left_knee"),
        ("left_knee", "left_ankle"),
        ("right_hip", "right_knee"),
        ("right_knee", "right_ankle"),
    ),
)
SKELETON = tuple((JOINTS.index(a), JOINTS.index(b)) for a, b in BONES)
"""Pairs of 0-based joint indices."""

SUPERSAMPLING = 4
OUTSIDE, BODY, OUTLINE, LEGS, HEAD, FACE, ARMS = range(7)
PARTS = 7

Rng = np.random.Generator


class Sketch(NamedTuple):
    """An object before it has a place and colours."""

    shares: Float[np.ndarray, "h w p"]
    """How much of each pixel of the object's rectangle belongs to each part; 1 less their sum is not the object's."""
    joints: Float[np.ndarray, "k 2"]
    """(x, y) in pixels of the rectangle; empty for all but persons."""
    attributes: dict[str, Any]
    """What can be asked of the object besides its class: angle, digit, facing."""


def sketch(name: str, rng: Rng, *, diameter: float) -> Sketch:
    """An object of class `name`, `diameter` pixels across (a person: tall), turned at random."""
    if name == "person":
        return _person(rng, diameter)
    if name == "digit":
        return _digit(rng, diameter)
    return _shape(name, rng, diameter)


def coverage(shares: Float[np.ndarray, "h w p"]) -> Float[np.ndarray, "h w"]:
    """The share of each pixel that the object covers, in 0..1."""
    return np.minimum(shares.sum(-1), 1.0)


def paint(
    shares: Float[np.ndarray, "h w p"], palettes: Float[np.ndarray, "2 p 3"], field: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
    """The object's colours multiplied by its coverage: `field` mixes the two palettes (0: the first, 1: the second)."""
    return shares @ palettes[0] + (shares @ (palettes[1] - palettes[0])) * field[..., None]


def _shares(parts: UInt8[np.ndarray, "h4 w4"]) -> Float[np.ndarray, "h w p"]:
    """Means over the blocks of an enlarged map of parts."""
    height, width = np.array(parts.shape) // SUPERSAMPLING
    shares = np.zeros((height, width, PARTS), np.float32)
    for part in np.flatnonzero(np.bincount(parts.ravel(), minlength=PARTS)[1:]) + 1:
        plane = cv2.compare(parts, float(part), cv2.CMP_EQ)  # 255 where equal
        shares[..., part] = cv2.resize(plane, (int(width), int(height)), interpolation=cv2.INTER_AREA)
    return shares / np.float32(255)


# Drawn shapes: contours around the origin, about 1 across. Where two contours overlap, even-odd filling leaves a hole.


def _ellipse(width: float, height: float, points: int = 48) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(turn) * width / 2, np.sin(turn) * height / 2], axis=-1)


def _circle(rng: Rng) -> list[np.ndarray]:
    return [_ellipse(1.0, rng.uniform(0.7, 1.0))]


def _rectangle(rng: Rng) -> list[np.ndarray]:
    half = rng.uniform(0.5, 1.0) / 2
    return [np.array([(-0.5, -half), (0.5, -half), (0.5, half), (-0.5, half)])]


def _triangle(rng: Rng) -> list[np.ndarray]:
    half = rng.uniform(0.36, 0.5)
    return [np.array([(0, -0.5), (half, 0.4), (-half, 0.4)])]


def _star(rng: Rng) -> list[np.ndarray]:
    radius = np.where(np.arange(10) % 2, rng.uniform(0.19, 0.25), 0.52)
    turn = np.arange(10) * np.pi / 5 - np.pi / 2
    return [np.stack([np.cos(turn) * radius, np.sin(turn) * radius], axis=-1)]


def _ring(rng: Rng) -> list[np.ndarray]:
    hole = rng.uniform(0.45, 0.65)
    return [_ellipse(1.0, 1.0), _ellipse(hole, hole)]


def _cross(rng: Rng) -> list[np.ndarray]:
    a, b = rng.uniform(0.11, 0.17), 0.5
    quarter = [(-a, -b), (a, -b), (a, -a), (b, -a)]
    turns = [np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return [np.concatenate([np.array(quarter) @ turn for turn in turns])]


class _ShapeKind(NamedTuple):
    contours: Callable[[Rng], list[np.ndarray]]
    period: float
    """Turning by this many degrees gives the same shape again, so only angles below it can be told apart."""


_SHAPES = {
    "circle": _ShapeKind(_circle, 180.0),
    "rectangle": _ShapeKind(_rectangle, 180.0),
    "triangle": _ShapeKind(_triangle, 360.0),
    "star": _ShapeKind(_star, 72.0),
    "ring": _ShapeKind(_ring, 0.0),
    "cross": _ShapeKind(_cross, 90.0),
}


def _turn(degrees: float) -> np.ndarray:
    """Matrix that turns row vectors clockwise as seen on the screen (y points down)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, s], [-s, c]])


def _frame(points: np.ndarray, margin: float) -> tuple[np.ndarray, tuple[int, int]]:
    """Offset of a rectangle of whole pixels around `points` with `margin` pixels to spare, and its (height, width)."""
    low = np.floor(points.min(0) - margin)
    width, height = (np.ceil(points.max(0) + margin) - low).astype(int).tolist()
    return low, (height, width)


def _fixed_point(points: np.ndarray) -> np.ndarray:
    """Pixel coordinates as OpenCV takes them on an enlarged plane: 4 fractional bits, whole at pixel centres."""
    return np.round((points * SUPERSAMPLING - 0.5) * 16).astype(np.int32)


def _shape(name: str, rng: Rng, diameter: float) -> Sketch:
    kind = _SHAPES[name]
    angle = rng.uniform(-kind.period / 2, kind.period / 2)
    offset = rng.uniform(0, 1, 2)
    contours = [contour * diameter @ _turn(angle) + offset for contour in kind.contours(rng)]
    outline = rng.uniform(0.03, 0.06) * diameter if rng.random() < 0.4 else 0.0
    low, (height, width) = _frame(np.concatenate(contours), outline + 1)
    parts = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    fixed = [_fixed_point(contour - low) for contour in contours]
    cv2.fillPoly(parts, fixed, BODY, shift=4)
    if outline:
        thickness = max(round(max(outline, 1.0) * SUPERSAMPLING), 1)
        cv2.polylines(parts, fixed, True, OUTLINE, thickness, shift=4)
    return Sketch(_shares(parts), np.zeros((0, 2)), {"angle": round(angle, 2)})


# Handwritten digits


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # imported where used: it costs a second

    data = load_digits()
    return data.images.astype(np.float32) / 16, data.target


def _digit(rng: Rng, diameter: float) -> Sketch:
    images, targets = _digits()
    index = int(rng.integers(len(targets)))
    angle = rng.uniform(-30, 30)
    # Blank pixels around the ink keep strokes that touch the 8x8 border from being cut straight.
    enlarged = cv2.resize(np.pad(images[index], 2), (96, 96), interpolation=cv2.INTER_CUBIC)
    # Eight pixels are few: a stroke is what is darker than its surroundings, else the loops of 6, 8 and 9 fill up.
    ink = cv2.GaussianBlur(enlarged, (0, 0), 1.5) - 0.5 * cv2.GaussianBlur(enlarged, (0, 0), 9)
    side = int(np.ceil(diameter * 1.9))
    zoom = diameter * SUPERSAMPLING / 64
    matrix = np.zeros((2, 3))
    matrix[:, :2] = _turn(angle).T * zoom
    matrix[:, 2] = side * SUPERSAMPLING / 2 - matrix[:, :2] @ (47.5, 47.5)
    warped = cv2.warpAffine(ink, matrix, (side * SUPERSAMPLING, side * SUPERSAMPLING), flags=cv2.INTER_LINEAR)
    parts = _trim(np.where(warped > 0.22, BODY, OUTSIDE).astype(np.uint8))
    return Sketch(_shares(parts), np.zeros((0, 2)), {"angle": round(angle, 2), "digit": int(targets[index])})


def _trim(parts: np.ndarray) -> np.ndarray:
    """The least rectangle of whole pixels that holds the object."""
    x, y, width, height = cv2.boundingRect(parts)
    x1, y1, n = x // SUPERSAMPLING, y // SUPERSAMPLING, SUPERSAMPLING
    return parts[y1 * n : -((y + height) // -n) * n, x1 * n : -((x + width) // -n) * n]


# Stick figures

# Lengths as shares of the body's height, near those of a grown person; the head is larger, so that faces can be seen.
_TORSO, _NECK, _HEAD, _SHOULDER, _HIP = 0.29, 0.13, 0.085, 0.105, 0.06
_UPPER_ARM, _FOREARM, _THIGH, _SHIN = 0.17, 0.16, 0.23, 0.22


def _limb(start: np.ndarray, side: int, lengths: tuple[float, float], angles: tuple[float, float]) -> list[np.ndarray]:
    """The middle and end joint of an arm or leg; angles in degrees from straight down, positive away from the body."""
    joints, at, total = [], start, 0.0
    for length, angle in zip(lengths, angles):
        total += np.radians(angle)
        at = at + length * np.array([side * np.sin(total), np.cos(total)])
        joints.append(at)
    return joints


def _pose(rng: Rng, front: bool) -> np.ndarray:
    """Joints `[14, 2]` of a body of height 1 whose hips are at the origin.

    The figure stands facing the viewer (its left is then on the right of the image) or away. Left and right follow from
    that alone, never from a colour: a mirrored image with left and right exchanged is again a possible image.
    """
    lean = _turn(rng.uniform(-14, 14))
    place = {"neck": np.array([0, -_TORSO]) @ lean, "head": np.array([0, -_TORSO - _NECK]) @ lean}
    for side in (-1, 1):
        name = "left" if (side == 1) == front else "right"
        shoulder = np.array([side * _SHOULDER, 0.02 - _TORSO]) @ lean
        hip = np.array([side * _HIP, 0.0])
        arm = _limb(shoulder, side, (_UPPER_ARM, _FOREARM), (rng.uniform(5, 155), rng.uniform(-70, 80)))
        leg = _limb(hip, side, (_THIGH, _SHIN), (rng.uniform(-8, 55), rng.uniform(-60, 15)))
        joints = zip(("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), (shoulder, *arm, hip, *leg))
        place |= {f"{name}_{joint}": at for joint, at in joints}
    return np.stack([place[name] for name in JOINTS])


def _person(rng: Rng, height: float) -> Sketch:
    front = bool(rng.random() < 0.75)
    angle = rng.uniform(-25, 25)
    joints = _pose(rng, front) * height @ _turn(angle) + rng.uniform(0, 1, 2)
    thickness = max(rng.uniform(0.055, 0.085) * height, 2.2)
    low, (rows, columns) = _frame(joints, _HEAD * height + thickness)
    joints = joints - low
    parts = np.zeros((rows * SUPERSAMPLING, columns * SUPERSAMPLING), np.uint8)
    _draw_body(parts, dict(zip(JOINTS, joints)), thickness, height)
    _draw_head(parts, joints[0], _turn(angle), height, front)
    return Sketch(_shares(parts), joints, {"angle": round(angle, 2), "facing": "front" if front else "back"})


def _draw_body(parts: np.ndarray, at: dict[str, np.ndarray], thickness: float, height: float) -> None:
    """Legs, torso and arms, each with a thin rim, so that an arm in front of the torso is still seen."""
    rim = max(0.014 * height, 0.5)
    corners = [at[name] for name in ("left_shoulder", "right_shoulder", "right_hip", "left_hip")]
    limbs = [[at[f"{side}_{joint}"] for joint in joints] for joints in _LIMBS for side in ("left", "right")]
    strokes = [(limbs[0], LEGS), (limbs[1], LEGS), ([*corners, corners[0]], BODY)]
    strokes += [([at["neck"], at["head"]], BODY), (limbs[2], ARMS), (limbs[3], ARMS)]
    for points, part in strokes:
        fixed = [_fixed_point(np.stack(points))]
        for value, extent in ((OUTLINE, thickness + 2 * rim), (part, thickness)):
            cv2.polylines(parts, fixed, False, value, round(extent * SUPERSAMPLING), shift=4)
            if part == BODY and len(points) == 5:
                cv2.fillPoly(parts, fixed, value, shift=4)


_LIMBS = (("hip", "knee", "ankle"), ("shoulder", "elbow", "wrist"))


def _draw_head(parts: np.ndarray, centre: np.ndarray, turn: np.ndarray, height: float, front: bool) -> None:
    def disc(offset: tuple[float, float], radius: float, part: int) -> None:
        at = _fixed_point(centre + np.array(offset) * height @ turn)
        cv2.circle(parts, at.tolist(), round(radius * SUPERSAMPLING * 16), part, -1, shift=4)

    disc((0.0, 0.0), _HEAD * height + max(0.014 * height, 0.5), OUTLINE)
    disc((0.0, 0.0), _HEAD * height, HEAD if front else FACE)
    if front:
        for side in (-1, 1):
            disc((side * 0.033, -0.01), max(0.016 * height, 0.4), FACE)


# Textures: planes of values in 0..1 that mix two colours


def _smooth_noise(rng: Rng, height: int, width: int) -> np.ndarray:
    total = np.zeros((height, width), np.float32)
    for cell in (4, 12, 36):
        coarse = rng.random((height // cell + 2, width // cell + 2), np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * cell**0.5
    return cv2.normalize(total, None, 0, 1, cv2.NORM_MINMAX)


def _ramp(rng: Rng, height: int, width: int) -> np.ndarray:
    """Distance along a random direction, in pixels, from the middle."""
    c, s = np.float32(np.cos(turn := rng.uniform(0, 2 * np.pi))), np.float32(np.sin(turn))
    x, y = np.arange(width, dtype=np.float32) - width / 2, np.arange(height, dtype=np.float32) - height / 2
    return c * x + s * y[:, None]


def _gradient(rng: Rng, height: int, width: int) -> np.ndarray:
    return np.clip(0.5 + _ramp(rng, height, width) / max(height, width), 0, 1)


def _stripes(rng: Rng, height: int, width: int) -> np.ndarray:
    period = rng.uniform(0.12, 0.3) * min(height, width)
    return np.clip(0.5 + 1.5 * np.sin(_ramp(rng, height, width) * (2 * np.pi / period)), 0, 1)


def _checker(rng: Rng, height: int, width: int) -> np.ndarray:
    period = rng.uniform(0.15, 0.4) * min(height, width)
    u, v = _ramp(rng, height, width), _ramp(rng, height, width)
    return np.clip(0.5 + 3 * np.sin(u * (2 * np.pi / period)) * np.sin(v * (2 * np.pi / period)), 0, 1)


def _blobs(rng: Rng, height: int, width: int) -> np.ndarray:
    plane = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(4, 12))):
        centre = rng.uniform(0, (width, height)).astype(int).tolist()
        axes = rng.uniform(0.05, 0.25, 2) * min(height, width)
        value = float(rng.uniform(0.3, 1))
        cv2.ellipse(plane, centre, axes.astype(int).tolist(), float(rng.uniform(0, 180)), 0, 360, value, -1)
    return np.clip(cv2.GaussianBlur(plane, (0, 0), rng.uniform(2, 6)), 0, 1)


def _plain(rng: Rng, height: int, width: int) -> np.ndarray:
    return np.zeros((height, width), np.float32)


BACKGROUNDS = {"noise": _smooth_noise, "gradient": _gradient, "stripes": _stripes, "checker": _checker, "blobs": _blobs}
FILLS = {"plain": _plain, "gradient": _gradient, "stripes": _stripes, "checker": _checker}


# Colours, RGB in 0..1


def hsv(hue: float, saturation: float, value: float) -> Float[np.ndarray, "3"]:
    """RGB of a hue in degrees and a saturation and value in 0..1."""
    return cv2.cvtColor(np.array([[[hue % 360, saturation, value]]], np.float32), cv2.COLOR_HSV2RGB)[0, 0]


def background(rng: Rng, height: int, width: int) -> Float[np.ndarray, "h w 3"]:
    """A textured plane between two close, rather pale or dark colours, with a little grain."""
    hue, saturation, value = rng.uniform(0, 360), rng.uniform(0.05, 0.45), rng.uniform(0.25, 0.9)
    near = np.clip((saturation + rng.uniform(-0.15, 0.15), value + rng.choice((-1, 1)) * rng.uniform(0.06, 0.18)), 0, 1)
    first, second = hsv(hue, saturation, value), hsv(hue + rng.uniform(-35, 35), *near)
    texture = BACKGROUNDS[rng.choice(list(BACKGROUNDS))](rng, height, width)
    grain = rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(0.005, 0.03))
    return np.clip(first + (second - first) * texture[..., None] + grain, 0, 1).astype(np.float32)


def contrasting(rng: Rng, behind: Float[np.ndarray, "h w 3"], *, candidates: int = 10) -> Float[np.ndarray, "3"]:
    """A colour that stands out from everything in `behind`: the first of some random ones that is far enough from it.

    Far is a CIELAB distance of 45, some twenty times the smallest difference that can be seen; where no candidate is
    that far from every part of `behind`, the farthest is taken.
    """
    lab = cv2.cvtColor(cv2.resize(behind, (5, 5), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB).reshape(-1, 3)
    best, farthest = np.zeros(3, np.float32), -1.0
    for _ in range(candidates):
        colour = hsv(rng.uniform(0, 360), rng.uniform(0.0, 1.0) ** 0.4, rng.choice((0.1, 0.6, 0.85, 1.0)))
        distance = np.linalg.norm(cv2.cvtColor(colour[None, None], cv2.COLOR_RGB2LAB)[0, 0] - lab, axis=1).min()
        if distance > farthest:
            best, farthest = colour, distance
        if distance > 45:
            break
    return best


def palettes(rng: Rng, name: str, behind: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "2 p 3"]:
    """Two colours for each part of an object of class `name`, between which its texture varies."""
    table = np.zeros((2, PARTS, 3), np.float32)
    body = contrasting(rng, behind)
    dark = body @ np.float32([0.3, 0.6, 0.1]) < 0.35
    table[:, BODY] = body, np.clip(body + 0.3, 0, 1) if dark else body * 0.65
    table[:, OUTLINE] = 0.9 if dark and name != "person" else body * 0.2
    table[:, ARMS] = np.clip(body * 0.82 + 0.06, 0, 1)
    if name == "person":
        table[:, LEGS] = contrasting(rng, behind)
        table[:, HEAD] = hsv(rng.uniform(15, 35), rng.uniform(0.2, 0.5), rng.uniform(0.8, 1.0))
        table[:, FACE] = hsv(rng.uniform(10, 40), 0.5, rng.uniform(0.05, 0.25))
    return table
