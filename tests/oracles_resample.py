"""Resampling as its definitions say, one cell at a time, in NumPy."""

import numpy as np


def places(before: int, after: int, align_corners: bool) -> np.ndarray:
    """Where output cell i lies in the input, centres at whole numbers."""
    if align_corners:
        return np.linspace(0, before - 1, after) if after > 1 else np.zeros(1)
    return (np.arange(after) + 0.5) * before / after - 0.5


def linear(line: np.ndarray, after: int, align_corners: bool) -> np.ndarray:
    """A signal interpolated by NumPy, whose ends are continued."""
    return np.interp(places(len(line), after, align_corners), np.arange(len(line)), line)


def cubic(line: np.ndarray, after: int, align_corners: bool, a: float = -0.75) -> np.ndarray:
    """Keys' kernel, summed over every cell within two of the place, the ends continued."""

    def kernel(d):
        d = abs(d)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    where = places(len(line), after, align_corners)
    cells = range(-3, len(line) + 4)
    return np.array([sum(kernel(x - i) * line[min(max(i, 0), len(line) - 1)] for i in cells) for x in where])


def resize(x: np.ndarray, size: tuple[int, int], line, align_corners: bool) -> np.ndarray:
    """`line` along the columns, then along the rows, of [b h w c]."""
    for axis, after in ((1, size[0]), (2, size[1])):
        x = np.apply_along_axis(line, axis, x, after, align_corners)
    return x


def max_pool(x: np.ndarray, window: int, stride: int, padding: int, cotangent=None):
    """(maxima, flat places, gradient of x [h w c] for `cotangent`): the first largest, and NaN above everything."""
    h, w, c = x.shape
    rows, cols = ((n + 2 * padding - window) // stride + 1 for n in (h, w))
    pooled, indices = np.zeros((rows, cols, c)), np.zeros((rows, cols, c), int)
    gradient = np.zeros(x.shape)
    for i, j, k in np.ndindex(rows, cols, c):
        top, left = i * stride - padding, j * stride - padding
        inside = [(y, z) for y in range(top, top + window) for z in range(left, left + window)]
        inside = [(y, z) for y, z in inside if 0 <= y < h and 0 <= z < w]
        missing = [cell for cell in inside if np.isnan(x[(*cell, k)])]
        best = missing[-1] if missing else max(inside, key=lambda cell: x[(*cell, k)])
        pooled[i, j, k], indices[i, j, k] = x[(*best, k)], best[0] * w + best[1]
        if cotangent is not None:
            gradient[(*best, k)] += cotangent[i, j, k]
    return pooled, indices, gradient


def unpool(x: np.ndarray, indices: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each value of [h w c] at its place, zeros elsewhere."""
    y = np.zeros((size[0] * size[1], x.shape[-1]), x.dtype)
    for i, j, k in np.ndindex(x.shape):
        y[indices[i, j, k], k] = x[i, j, k]
    return y.reshape(*size, -1)


def transposed_convolution(x, kernel, stride=1, padding=0, output_padding=0, dilation=1, groups=1) -> np.ndarray:
    """Every cell of [b h w c] adds its stamp [kh kw in out/groups], group by group."""
    b, h, w, c = x.shape
    kh, kw, _, out = kernel.shape
    full = np.zeros(
        (
            b,
            (h - 1) * stride + dilation * (kh - 1) + 1 + output_padding,
            (w - 1) * stride + dilation * (kw - 1) + 1 + output_padding,
            out * groups,
        )
    )
    for i, j, p, q, channel in np.ndindex(h, w, kh, kw, c):
        group = channel // (c // groups)
        into = full[:, i * stride + p * dilation, j * stride + q * dilation, group * out : (group + 1) * out]
        into += x[:, i, j, channel, None] * kernel[p, q, channel]
    return full[:, padding : full.shape[1] - padding, padding : full.shape[2] - padding]


def guided_filter(guide: np.ndarray, x: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """He et al. 2010: ridge regression of x [h w c] on the guide [h w g] in every window, the answers averaged.

    Solved as least squares over the pixels of the window, not through means and covariances.
    """
    h, w, g = guide.shape
    total, count = np.zeros(x.shape), np.zeros((h, w, 1))
    for i, j in np.ndindex(h, w):
        here = (slice(max(i - radius, 0), i + radius + 1), slice(max(j - radius, 0), j + radius + 1))
        seen = guide[here].reshape(-1, g)
        rows = np.concatenate([seen, np.ones((len(seen), 1))], axis=1)
        # The slopes are held small, the offset is not.
        ridge = np.concatenate([np.sqrt(epsilon * len(seen)) * np.eye(g), np.zeros((g, 1))], axis=1)
        targets = np.concatenate([x[here].reshape(-1, x.shape[-1]), np.zeros((g, x.shape[-1]))])
        fit = np.linalg.lstsq(np.concatenate([rows, ridge]), targets, rcond=None)[0]
        total[here] += (rows @ fit).reshape(total[here].shape)
        count[here] += 1
    return total / count
