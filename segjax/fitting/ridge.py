"""Ridge regression in closed form."""

import dataclasses

import numpy as np
import scipy.linalg
from jaxtyping import Float, Float32, Int


@dataclasses.dataclass(frozen=True)
class RidgeSettings:
    """How boxes are regressed; the defaults are those of R-CNN (Girshick et al. 2014, appendix C) and of its code."""

    regularization: float = 1000.0
    """Weight of the squared norm beside the squared errors."""
    overlap: float = 0.6
    """A proposal is an example of the object it overlaps most where their IoU is above this."""
    norm: float = 20.0
    """What features are scaled to on average before."""


def ridge(
    x: Float[np.ndarray, "m f"],
    y: Float[np.ndarray, "n d"],
    *,
    rows: Int[np.ndarray, "n"] | None = None,
    scale: float = 1.0,
    regularization: float,
    block: int = 4096,
) -> tuple[Float32[np.ndarray, "f d"], Float32[np.ndarray, "d"]]:
    """(kernel, bias) with the least |scale x kernel + bias - y|^2 + regularization |kernel|^2; the bias is free.

    The equations are solved for as many unknowns as there are examples or features, whichever are fewer, so that their
    square is what is held in memory, beside `block` examples.

    Args:
      x: features; may be a memory map.
      y: targets of the examples.
      rows: which rows of `x` are the examples, at least one; all by default.
      scale: what features are multiplied by before.
      regularization: positive.
      block: examples read at a time.
    """
    rows = np.arange(len(x)) if rows is None else rows
    parts = [slice(start, start + block) for start in range(0, len(rows), block)]

    def read(part: slice) -> Float32[np.ndarray, "b f"]:
        return x[rows[part]].astype(np.float32) * np.float32(scale)

    middle = sum(read(part).sum(0, dtype=np.float64) for part in parts) / len(rows)
    target = y.mean(0, dtype=np.float64)
    middle32, y = middle.astype(np.float32), (y - target).astype(np.float32)
    if len(rows) < x.shape[1]:
        few = np.concatenate([read(part) for part in parts]) - middle32
        kernel = few.T @ _solved(few @ few.T, y, regularization).astype(np.float32)
    else:
        products = np.zeros((x.shape[1], x.shape[1]), np.float32), np.zeros((x.shape[1], y.shape[1]), np.float32)
        for part in parts:
            centred = read(part) - middle32
            for total, other in zip(products, (centred, y[part])):
                total += centred.T @ other
        kernel = _solved(*products, regularization)
    return kernel.astype(np.float32), (target - middle @ kernel).astype(np.float32)


def _solved(square: np.ndarray, right: np.ndarray, regularization: float) -> Float[np.ndarray, "_ d"]:
    """(square + regularization I)^-1 right."""
    equations = square.astype(np.float64)
    equations[np.diag_indices_from(equations)] += regularization
    return scipy.linalg.solve(equations, right.astype(np.float64), assume_a="pos", overwrite_a=True)
