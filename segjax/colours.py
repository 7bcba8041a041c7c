"""Colours for classes: one each, always the same, that differ as much as they can, to the red-green blind too."""

import functools

import cv2
import numpy as np
from jaxtyping import UInt8

# The first colours are those of Okabe and Ito, "Color Universal Design" (2008), less black.
_FIRST_COLOURS = (
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
# How red-green blind people see linear RGB: full deuteranopia, Machado, Oliveira and Fernandes (2009), table 1.
_DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)


def class_colours(count: int) -> UInt8[np.ndarray, "n 3"]:
    """One RGB colour for each of `count` classes; a class keeps its colour however many follow.

    After seven well-known ones, each colour is the one that differs most (in CIELAB) from all before it, to people with
    full colour vision and to those who are red-green blind alike. From 120 on they repeat.
    """
    colours = _all_colours()
    return colours[np.arange(count) % len(colours)]


@functools.cache
def _all_colours(count: int = 120) -> np.ndarray:
    steps = np.linspace(0, 255, 9).round()
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness = _lab(grid / 255)[:, 0]
    grid = np.concatenate([_FIRST_COLOURS, grid[(lightness > 35) & (lightness < 92)]])
    seen = np.concatenate([_lab(grid / 255), _lab(_as_deuteranope(grid / 255))], axis=-1).reshape(-1, 2, 3)
    distance, chosen = np.full(len(grid), np.inf), []
    for i in range(count):
        pick = i if i < len(_FIRST_COLOURS) else int(distance.argmax())
        chosen.append(pick)
        distance = np.minimum(distance, np.linalg.norm(seen - seen[pick], axis=-1).min(-1))
    return grid[chosen].astype(np.uint8)


def _lab(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(rgb[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]


def _as_deuteranope(rgb: np.ndarray) -> np.ndarray:
    return np.clip(rgb**2.2 @ _DEUTERANOPIA.T, 0, 1) ** (1 / 2.2)
