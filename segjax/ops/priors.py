"""The default boxes of SSD (Liu et al. 2016, section 2.2), "priors" for short, in torchvision's geometry and order.

Like anchors, they follow from shapes alone and are computed inside the program. Unlike anchors, they are shares of the
image: a prior of scale 0.2 is a fifth of the image's width wide and a fifth of its height high.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def prior_shapes(
    scale: int | float, next_scale: int | float, *, ratios: Sequence[int | float], clip: bool = True
) -> Float[np.ndarray, "a 2"]:
    """(width, height) of the priors of one cell, as shares of the image.

    First the square of `scale`, then the square between this scale and the next, sqrt(scale * next_scale), then a wide
    and a high box of `scale` for each ratio.

    Args:
        scale, next_scale: of this map and of the next coarser one, positive.
        ratios: width / height, without 1, which is always there; nor inverses, which come by themselves.
        clip: sides end at 1, as in torchvision; the authors' code lets them exceed the image.

    Raises:
        ValueError: a number that is not positive.
    """
    if min(scale, next_scale, *ratios) <= 0:
        raise ValueError(f"scales and ratios must be positive, got {scale}, {next_scale} and ratios={tuple(ratios)}.")
    between = math.sqrt(scale * next_scale)
    shapes = [(scale, scale), (between, between)]
    for ratio in ratios:
        long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
        shapes += [(long, short), (short, long)]
    return np.minimum(np.array(shapes, np.float32), 1.0 if clip else np.inf)


def grid_priors(
    shape: tuple[int, int], *, size: tuple[int, int], shapes: Float[np.ndarray, "a 2"], step: int | float | None = None
) -> Float[Array, "hwa 4"]:
    """The priors of one map, `xyxy` in pixels of the image, beyond its borders where they are.

    Args:
        shape: (height, width) of the map.
        size: (height, width) of the image in pixels, padding included.
        shapes: as `prior_shapes` gives them.
        step: pixels from cell to cell, where the map's cells are not to share the image out evenly.

    Returns:
        height * width * a priors: row by row, then column by column, then in the order of `shapes`.
    """
    down, across = (size[0] / shape[0], size[1] / shape[1]) if step is None else (step, step)
    rows, columns = jnp.indices(shape, dtype=jnp.float32)
    centres = jnp.stack([(columns.ravel() + 0.5) * across, (rows.ravel() + 0.5) * down], axis=-1)[:, None]
    half = jnp.asarray(0.5 * shapes * np.array([size[1], size[0]], np.float32))[None]
    return jnp.concatenate([centres - half, centres + half], axis=-1).reshape(-1, 4)


def pyramid_priors(
    maps: Sequence[tuple[int, int]],
    *,
    size: tuple[int, int],
    scales: Sequence[int | float],
    ratios: Sequence[Sequence[int | float]],
    steps: Sequence[int | float] = (),
    clip: bool = True,
) -> list[Float[Array, "_ 4"]]:
    """The priors of each map, as `grid_priors` gives them.

    Args:
        maps: (height, width) of each.
        size: (height, width) of the image in pixels, padding included.
        scales: of each map, and one more, which the last map's second square is made of.
        ratios: of each map, as in `prior_shapes`.
        steps: pixels from cell to cell of each map; without, the cells share the image out evenly.
        clip: as in `prior_shapes`.

    Raises:
        ValueError: not one entry a map, or steps that do not lay the map's cells over the image.
    """
    if not len(scales) - 1 == len(ratios) == len(maps) or len(steps) not in (0, len(maps)):
        raise ValueError(
            f"{len(maps)} maps need as many ratios, one scale more, and as many steps or none; got {len(ratios)} "
            f"ratios, {len(scales)} scales and {len(steps)} steps."
        )
    for step, shape in zip(steps, maps):
        if tuple(math.ceil(side / step) for side in size) != tuple(shape):
            raise ValueError(
                f"an image of {size[0]} x {size[1]} pixels has a map of {shape[0]} x {shape[1]} cells, which steps of "
                f"{step} pixels do not cover: give images of the size that the steps {tuple(steps)} are for, or none."
            )
    priors = []
    for i, shape in enumerate(maps):
        shapes = prior_shapes(scales[i], scales[i + 1], ratios=ratios[i], clip=clip)
        priors.append(grid_priors(shape, size=size, shapes=shapes, step=steps[i] if steps else None))
    return priors
