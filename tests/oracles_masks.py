"""Mask targets, pasted masks and joints of heat maps as torchvision defines them, one pixel at a time, in NumPy."""

import math

import numpy as np


def bilinear(cells: np.ndarray, y: float, x: float) -> float:
    """The value of `cells` [h, w] at (y, x) inside it, cell i lying at coordinate i; beyond the last it goes on."""
    h, w = cells.shape
    value = 0.0
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            value += (1 - abs(y - i)) * (1 - abs(x - j)) * cells[min(max(i, 0), h - 1), min(max(j, 0), w - 1)]
    return value


def crop_target(mask: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """RoIAlign of one mask, with as many samples along each side of a bin as it has pixels, rounded up."""
    h, w = mask.shape
    x1, y1, x2, y2 = (float(v) for v in box)
    height, width = max(y2 - y1, 1.0), max(x2 - x1, 1.0)
    many_y, many_x = math.ceil(height / size), math.ceil(width / size)
    target = np.zeros((size, size))
    for p, q in np.ndindex(size, size):
        for i, j in np.ndindex(many_y, many_x):
            y = y1 + height * (p + (i + 0.5) / many_y) / size
            x = x1 + width * (q + (j + 0.5) / many_x) / size
            if -1 <= y <= h and -1 <= x <= w:
                at = min(max(y, 0.0), h - 1.0), min(max(x, 0.0), w - 1.0)
                target[p, q] += bilinear(mask, *at) / (many_y * many_x)
    return target


def paste(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One mask over an image: bordered by zeros, the box grown alike and cut to whole pixels, resized, clipped."""
    m = len(mask) + 2
    bordered = np.zeros((m, m))
    bordered[1:-1, 1:-1] = mask
    grown = np.empty(4)
    for axis in (0, 1):
        centre, half = (box[axis] + box[axis + 2]) / 2, (box[axis + 2] - box[axis]) / 2 * m / (m - 2)
        grown[axis], grown[axis + 2] = centre - half, centre + half
    x1, y1, x2, y2 = (math.trunc(v) for v in grown)
    image = np.zeros(size)
    for y in range(max(y1, 0), min(y2 + 1, size[0])):
        for x in range(max(x1, 0), min(x2 + 1, size[1])):
            at_y = max((y - y1 + 0.5) * m / (y2 - y1 + 1) - 0.5, 0)
            at_x = max((x - x1 + 0.5) * m / (x2 - x1 + 1) - 0.5, 0)
            image[y, x] = bilinear(bordered, at_y, at_x)
    return image


def heatmap_target(joint: np.ndarray, box: np.ndarray, size: int) -> tuple[int, bool]:
    """(cell, valid) of one joint (x, y, visibility)."""
    cell = []
    for axis in (0, 1):
        low, high, at = float(box[axis]), float(box[axis + 2]), float(joint[axis])
        if high <= low:
            return 0, False
        cell.append(size - 1 if at == high else math.floor((at - low) * size / (high - low)))
    valid = all(0 <= c < size for c in cell) and joint[2] > 0
    return (cell[1] * size + cell[0] if valid else 0), valid


def cubic(distance: float, a: float = -0.75) -> float:
    """The kernel of cubic convolution (Keys 1981, eq. 4)."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def bicubic_matrix(pixels: int, cells: int) -> np.ndarray:
    """[pixels, cells]: a resize along one axis; cells beyond the border are the border's."""
    weights = np.zeros((pixels, cells))
    for pixel in range(pixels):
        at = (pixel + 0.5) * cells / pixels - 0.5
        for tap in range(math.floor(at) - 1, math.floor(at) + 3):
            weights[pixel, min(max(tap, 0), cells - 1)] += cubic(at - tap)
    return weights


def decode_heatmap(heatmap: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, float]:
    """((x, y, score) of one joint from its map [size, size], how much better that pixel is than the next best)."""
    width, height = max(float(box[2] - box[0]), 1.0), max(float(box[3] - box[1]), 1.0)
    w, h = math.ceil(width), math.ceil(height)
    values = bicubic_matrix(h, len(heatmap)) @ heatmap.astype(np.float64) @ bicubic_matrix(w, len(heatmap)).T
    y, x = np.unravel_index(values.argmax(), values.shape)
    lead = np.diff(np.sort(values, axis=None)[-2:])[0] if values.size > 1 else math.inf
    return np.array([(x + 0.5) * width / w + box[0], (y + 0.5) * height / h + box[1], values[y, x]]), lead
