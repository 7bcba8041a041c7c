"""RoIAlign and RoIPool as their papers define them, one bin and one sample at a time, in NumPy."""

import math

import numpy as np


def sample(features: np.ndarray, y: float, x: float) -> np.ndarray:
    """The bilinear value [c] of a map [h w c] at (y, x), cell i lying at coordinate i; zero beyond one cell outside."""
    h, w, c = features.shape
    if y < -1 or y > h or x < -1 or x > w:
        return np.zeros(c)
    y, x = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
    value = np.zeros(c)
    for i in range(h):
        for j in range(w):
            value += max(0.0, 1 - abs(y - i)) * max(0.0, 1 - abs(x - j)) * features[i, j]
    return value


def roi_align(features, boxes, size, scale, ratio=2, aligned=False) -> np.ndarray:
    """The mean of ratio x ratio samples in the middles of equal parts of each bin."""
    pooled = np.zeros((len(boxes), *size, features.shape[2]))
    for n, box in enumerate(np.asarray(boxes, np.float64)):
        x1, y1, x2, y2 = box * scale - (0.5 if aligned else 0.0)
        height, width = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1.0), max(x2 - x1, 1.0))
        for p, q in np.ndindex(*size):
            for i, j in np.ndindex(ratio, ratio):
                y = y1 + height * (p + (i + 0.5) / ratio) / size[0]
                x = x1 + width * (q + (j + 0.5) / ratio) / size[1]
                pooled[n, p, q] += sample(features, y, x) / ratio**2
    return pooled


def round_half_away(value: float) -> int:
    """The nearest whole number, halves away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def edges(start: int, end: int, bins: int) -> list[tuple[int, int]]:
    """[first, behind the last) cell of each of the equal parts of the cells start..end, every cell touched counting."""
    length = max(end - start + 1, 1)
    return [(start + p * length // bins, start - (-(p + 1) * length // bins)) for p in range(bins)]


def roi_pool(features, boxes, size, scale, cotangent=None):
    """(pooled [n oh ow c], gradient of `features` for `cotangent`): the first largest cell of each bin, row by row."""
    h, w, c = features.shape
    pooled, gradient = np.zeros((len(boxes), *size, c)), np.zeros(features.shape)
    for n, box in enumerate(boxes):
        x1, y1, x2, y2 = (round_half_away(float(side) * scale) for side in box)
        rows, cols = edges(y1, y2, size[0]), edges(x1, x2, size[1])
        for p, q, k in np.ndindex(*size, c):
            inside = [(i, j) for i in range(*rows[p]) for j in range(*cols[q]) if 0 <= i < h and 0 <= j < w]
            if inside:
                best = max(inside, key=lambda cell: features[(*cell, k)])
                pooled[n, p, q, k] = features[(*best, k)]
                gradient[(*best, k)] += 0 if cotangent is None else cotangent[n, p, q, k]
    return pooled, gradient


def level(box, strides, canonical_size=224, canonical_level=4) -> int:
    """Index into `strides`: the largest k for which the box has a side of canonical_size * 2**(k - canonical_level)."""
    side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
    found = 0
    for i, stride in enumerate(strides):
        if side >= canonical_size * stride / 2**canonical_level:
            found = i
    return found
