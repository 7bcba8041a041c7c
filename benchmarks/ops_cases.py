"""IoU, NMS and the RoI poolings of both libraries on the same numbers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision

from benchmarks.cases import Case, Comparison, Compiled, Setting, as_numpy, checked, compared, waited
from segjax.ops import boxes as box_ops
from segjax.ops import nms as nms_ops
from segjax.ops import roi as roi_ops

HEIGHT, WIDTH = 400, 608
"""Pixels of the image that a 100 x 152 map of stride 4 belongs to."""


def uniform_boxes(rng: np.random.Generator, count: int, *, largest: float = 100.0) -> np.ndarray:
    """Boxes anywhere in an 800 x 1216 image, most of which overlap few others."""
    corner = rng.uniform(0, 1, (count, 2)) * (1216 - largest, 800 - largest)
    return np.concatenate([corner, corner + rng.uniform(4, largest, (count, 2))], axis=1).astype(np.float32)


def clustered_boxes(rng: np.random.Generator, count: int, *, each: int = 40) -> np.ndarray:
    """Boxes like proposals: many about every object, so that a few in a hundred survive NMS."""
    objects = uniform_boxes(rng, max(1, count // each), largest=300.0)
    chosen = objects[rng.integers(0, len(objects), count)]
    side = (chosen[:, 2:] - chosen[:, :2])[:, [0, 1, 0, 1]]
    return (chosen + rng.normal(0, 0.06, (count, 4)) * side).astype(np.float32)


def proposal_boxes(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Boxes of log-uniform size from 16 pixels to the image's side, inside the image."""
    limits = np.array([width, height])
    side = np.minimum(np.exp(rng.uniform(np.log(16), np.log(limits.min()), (count, 2))), limits)
    corner = rng.uniform(0, 1, (count, 2)) * (limits - side)
    return np.concatenate([corner, corner + side], axis=1).astype(np.float32)


def both(setting: Setting, *arrays: np.ndarray) -> tuple[list[jax.Array], list[torch.Tensor]]:
    """The arrays on each library's device."""
    return [jnp.asarray(a) for a in arrays], [torch.from_numpy(a.copy()).to(setting.device) for a in arrays]


def iou_case(setting: Setting, quick: bool, *, n: int, m: int) -> Comparison:
    """Pairwise IoU of n and m boxes."""
    rng = np.random.default_rng(0)
    n = min(n, 500) if quick else n
    ours, theirs = both(setting, uniform_boxes(rng, n), uniform_boxes(rng, m))
    compiled = Compiled(jax.jit(box_ops.iou), *ours)
    run = waited(setting, lambda: torchvision.ops.box_iou(*theirs))
    difference = checked("IoU", compiled(*ours), run(), 1e-5)
    return compared(compiled, ours, run, {"iou": difference}, {"pairs": n * m})


def nms_case(setting: Setting, quick: bool, *, count: int, kind: Callable[..., np.ndarray]) -> Comparison:
    """NMS at an IoU of 0.7, the threshold of region proposals; the boxes come in no order."""
    rng = np.random.default_rng(0)
    count = min(count, 500) if quick else count
    ours, theirs = both(setting, kind(rng, count), rng.permutation(count).astype(np.float32) / count)
    compiled = Compiled(jax.jit(functools.partial(nms_ops.nms, iou_threshold=0.7)), *ours)
    run = waited(setting, lambda: torchvision.ops.nms(*theirs, 0.7))
    kept = np.zeros(count, np.float32)
    kept[as_numpy(run())] = 1
    difference = checked("NMS", compiled(*ours).astype(jnp.float32), torch.from_numpy(kept), 0.0)
    return compared(compiled, ours, run, {"kept": difference}, {"boxes": count, "kept": int(kept.sum())})


def pool_case(setting: Setting, quick: bool, *, op: str, gradient: bool, channels: int = 256) -> Comparison:
    """1000 boxes pooled to 7 x 7 from one 100 x 152 map, or from the four levels of an 800 x 1216 image's pyramid."""
    rng = np.random.default_rng(0)
    count, channels = (50, 16) if quick else (1000, channels)
    strides = (4, 8, 16, 32) if op == "multilevel_roi_align" else (4,)
    height, width = (2 * HEIGHT, 2 * WIDTH) if len(strides) > 1 else (HEIGHT, WIDTH)
    maps = [rng.normal(size=(height // s, width // s, channels)).astype(np.float32) for s in strides]
    boxes = proposal_boxes(rng, count, height, width)
    cotangent = rng.normal(size=(count, 7, 7, channels)).astype(np.float32)

    pool = _our_pool(op, strides)
    ours = (*both(setting, *maps, boxes, cotangent)[0],)
    function = _our_gradient(pool, len(maps)) if gradient else (lambda *a: pool(list(a[:-2]), a[-2]))
    compiled = Compiled(jax.jit(function), *ours)
    tensors = both(setting, *[m.transpose(2, 0, 1)[None] for m in maps], boxes, cotangent.transpose(0, 3, 1, 2))[1]
    run = waited(setting, _their_pool(op, tensors, (height, width), gradient))

    mine, other = compiled(*ours), run()
    mine, other = (list(mine), list(other)) if gradient else ([mine], [other])
    pairs = zip(mine, [o.movedim(1, -1) for o in other])
    differences = {
        f"{'gradient' if i else 'pooled'}{i or ''}": checked(op, a, b if i == 0 else b[0], 1e-4)
        for i, (a, b) in enumerate(pairs)
    }
    return compared(compiled, ours, run, differences, {"boxes": count, "channels": channels})


def _our_pool(op: str, strides: tuple[int, ...]) -> Callable[[list[jax.Array], jax.Array], jax.Array]:
    if op == "multilevel_roi_align":
        return functools.partial(roi_ops.multilevel_roi_align, output_size=7, strides=strides)
    single = functools.partial(getattr(roi_ops, op), output_size=7, spatial_scale=1 / strides[0])
    return lambda maps, boxes: single(maps[0], boxes)


def _our_gradient(pool: Callable[..., jax.Array], levels: int) -> Callable[..., tuple[jax.Array, ...]]:
    """(maps..., boxes, cotangent) -> (pooled, gradient of each map)."""

    def run(*args: jax.Array) -> tuple[jax.Array, ...]:
        pooled, back = jax.vjp(lambda maps: pool(maps, args[levels]), list(args[:levels]))
        return (pooled, *back(args[levels + 1])[0])

    return run


def _their_pool(op: str, tensors: list[torch.Tensor], size: tuple[int, int], gradient: bool) -> Callable[[], Any]:
    *maps, boxes, cotangent = tensors
    if op == "multilevel_roi_align":
        names = [str(i) for i in range(len(maps))]
        pooler = torchvision.ops.MultiScaleRoIAlign(names, 7, 2)
        pool = lambda maps: pooler(dict(zip(names, maps)), [boxes], [size])  # noqa: E731
    else:
        options = {"sampling_ratio": 2} if op == "roi_align" else {}
        pool = lambda maps: getattr(torchvision.ops, op)(maps[0], [boxes], 7, 0.25, **options)  # noqa: E731

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return pool(maps)

    def forward_backward() -> tuple[torch.Tensor, ...]:
        leaves = [m.detach().requires_grad_() for m in maps]
        pooled = pool(leaves)
        return pooled, *torch.autograd.grad(pooled, leaves, cotangent)

    return forward_backward if gradient else forward


def ops_cases() -> list[Case]:
    """All cases of this file."""
    cases = [
        Case("iou_1000x1000", functools.partial(iou_case, n=1000, m=1000)),
        Case("iou_200000x50", functools.partial(iou_case, n=200_000, m=50)),
    ]
    for kind in (uniform_boxes, clustered_boxes):
        for count in (1000, 4000, 12_000):
            name = f"nms_{count}_{kind.__name__.removesuffix('_boxes')}"
            cases.append(Case(name, functools.partial(nms_case, count=count, kind=kind)))
    for op in ("roi_align", "multilevel_roi_align", "roi_pool"):
        for gradient in (False, True):
            name = f"{op}_{'forward_backward' if gradient else 'forward'}"
            cases.append(Case(name, functools.partial(pool_case, op=op, gradient=gradient)))
    return cases
