"""What the mask and keypoint heads do beside their networks, in both libraries on the same numbers."""

import functools
from typing import Any

import jax
import numpy as np
import torch
from torchvision.models.detection import roi_heads

from benchmarks.cases import Case, Comparison, Compiled, Setting, as_numpy, checked, compared, waited
from benchmarks.detectors import JOINTS, OBJECTS, Size, ellipses
from benchmarks.ops_cases import both, proposal_boxes
from segjax.models.heads.keypoint import LARGEST
from segjax.ops import keypoints, masks

QUICK = (96, 128)


def crop_case(setting: Setting, quick: bool, *, regions: int, size: Size) -> Comparison:
    """Mask targets of 28 x 28 for regions of `OBJECTS` objects; segjax's masks are packed, as in its batches."""
    rng = np.random.default_rng(0)
    regions, size = (8, QUICK) if quick else (regions, size)
    objects = ellipses(proposal_boxes(rng, OBJECTS, *size), size)
    target = rng.integers(0, OBJECTS, regions).astype(np.int32)
    boxes = proposal_boxes(rng, regions, *size)
    (packed, *ours), _ = both(setting, np.packbits(objects, axis=-1), target, boxes)
    _, (full, index, rois) = both(setting, objects, target.astype(np.int64), boxes)
    args = (packed, *ours)
    compiled = Compiled(jax.jit(functools.partial(masks.crop_targets, size=28, width=size[1])), *args)
    run = waited(setting, lambda: roi_heads.project_masks_on_boxes(full, rois, index, 28))
    differences = {"targets": checked("crop_targets", compiled(*args), run(), 1e-4)}
    return compared(compiled, args, run, differences, {"regions": regions})


def paste_case(setting: Setting, quick: bool, *, detections: int, size: Size) -> Comparison:
    """Masks of 28 x 28 laid over the image, as probabilities of every pixel."""
    rng = np.random.default_rng(0)
    detections, size = (8, QUICK) if quick else (detections, size)
    squares = rng.uniform(0, 1, (detections, 28, 28)).astype(np.float32)
    ours, (squares, boxes) = both(setting, squares, proposal_boxes(rng, detections, *size))
    compiled = Compiled(jax.jit(functools.partial(masks.paste, size=size)), *ours)
    run = waited(setting, lambda: roi_heads.paste_masks_in_image(squares[:, None], boxes, size))
    differences = {"pasted": checked("paste", compiled(*ours), run()[:, 0], 1e-4)}
    return compared(compiled, ours, run, differences, {"detections": detections})


def joints_case(setting: Setting, quick: bool, *, detections: int, size: Size) -> Comparison:
    """Joints at the maxima of heat maps of 56 x 56."""
    rng = np.random.default_rng(0)
    detections, size = (4, QUICK) if quick else (detections, size)
    # Smooth, as a network's are: of noise, neighbouring pixels would often be equally high.
    coarse = torch.from_numpy(rng.normal(0, 3, (detections, JOINTS, 9, 9)).astype(np.float32))
    heat = torch.nn.functional.interpolate(coarse, size=(56, 56), mode="bicubic", align_corners=False).numpy()
    boxes = proposal_boxes(rng, detections, *size)
    ours, _ = both(setting, np.ascontiguousarray(heat.transpose(0, 2, 3, 1)), boxes)
    _, theirs = both(setting, heat, boxes)
    # With the bound of the model's head.
    compiled = Compiled(jax.jit(functools.partial(keypoints.decode_heatmaps, max_size=(LARGEST, LARGEST))), *ours)
    run = waited(setting, lambda: roi_heads.heatmaps_to_keypoints(*theirs))
    return compared(compiled, ours, run, _compare_joints(compiled(*ours), run()), {"detections": detections})


def _compare_joints(ours: Any, theirs: Any) -> dict[str, float]:
    """Scores by value, places by how many are not the same pixel: equal maxima may be told apart by rounding."""
    places, scores = map(as_numpy, theirs)
    apart = float((np.abs(np.asarray(ours)[..., :2] - places[..., :2]).max(-1) > 0.1).mean())
    if apart > 0.01:
        raise ValueError(f"decode_heatmaps: {apart:.1%} of the joints are elsewhere in torchvision; nothing was timed.")
    return {
        "joints elsewhere": apart,
        "scores": checked("decode_heatmaps", ours[..., 2], torch.from_numpy(scores), 1e-4),
    }


def head_ops_cases() -> list[Case]:
    """All cases of this file, at the sizes of the detectors' own."""
    return [
        # As many regions as an image's positives may be, and as many detections.
        Case("mask_targets_128", functools.partial(crop_case, regions=128, size=(800, 1216))),
        Case("paste_masks_100", functools.partial(paste_case, detections=100, size=(480, 640))),
        Case("decode_heatmaps_100", functools.partial(joints_case, detections=100, size=(480, 640))),
    ]
