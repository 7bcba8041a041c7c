"""Ridge regression in closed form."""

import dataclasses

import numpy as np
import scipy.linalg
from jaxtyping import Float, Float32


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
    x: Float[np.ndarray, "n f"], y: Float[np.ndarray, "n d"], *, regularization: float
) -> tuple[Float32[np.ndarray, "f d"], Float32[np.ndarray, "d"]]:
    """(kernel, bias) with the least |x kernel + bias - y|^2 + regularization |kernel|^2; the bias is not held small.

    The equations are solved for as many unknowns as there are examples or features, whichever are fewer.

    Args:
      x: features of at least one example.
      y: targets.
      regularization: positive.
    """
    middle, target = x.mean(0, dtype=np.float64).astype(np.float32), y.mean(0, dtype=np.float64)
    x, y = x.astype(np.float32) - middle, y - target
    fewer = x @ x.T if len(x) < x.shape[1] else x.T @ x
    equations = fewer.astype(np.float64)
    equations[np.diag_indices_from(equations)] += regularization
    if len(x) < x.shape[1]:
        kernel = x.T @ scipy.linalg.solve(equations, y, assume_a="pos", overwrite_a=True)
    else:
        kernel = scipy.linalg.solve(equations, x.T @ y, assume_a="pos", overwrite_a=True)
    return kernel.astype(np.float32), (target - middle @ kernel).astype(np.float32)
