"""Mask targets, pasted masks, heat-map targets and joints against torchvision's functions, on many boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torchvision.models.detection import roi_heads

from segjax.ops import keypoints, masks

H, W = 300, 420


def random_boxes(rng: np.random.Generator, count: int, *, smallest: float = 0.5, outside: float = 0.0) -> np.ndarray:
    """Boxes of every scale and shape, inside the image but for a part `outside` of it; a quarter on whole pixels."""
    centre = rng.uniform([-outside * W, -outside * H], [(1 + outside) * W, (1 + outside) * H], (count, 2))
    side = np.exp(rng.uniform(np.log(smallest), np.log(W), (count, 2)))
    boxes = np.concatenate([centre - side / 2, centre + side / 2], 1)
    boxes = boxes if outside else np.clip(boxes, 0, [W, H, W, H])
    boxes[::4] = np.round(boxes[::4])
    return boxes.astype(np.float32)


def random_objects(rng: np.random.Generator, count: int) -> np.ndarray:
    """Masks of blobs of 4 x 4 pixels."""
    return (rng.random((count, H // 4, W // 4)) > 0.5).repeat(4, 1).repeat(4, 2)


@pytest.mark.parametrize("size", [28, 14])
@pytest.mark.parametrize("outside", [0.0, 0.3])
def test_mask_targets(rng, size, outside):
    objects, boxes = random_objects(rng, 6), random_boxes(rng, 300, outside=outside)
    target = rng.integers(0, 6, 300).astype(np.int32)
    given = (torch.from_numpy(objects.astype(np.uint8)), torch.from_numpy(boxes), torch.from_numpy(target).long())
    want = roi_heads.project_masks_on_boxes(*given, size).numpy()
    crop = jax.jit(lambda *a: masks.crop_targets(*a, size=size, width=W))
    np.testing.assert_allclose(crop(masks.pack(objects), target, boxes), want, atol=1e-5)
    # Not all of it is trivial.
    assert ((want > 0.01) & (want < 0.99)).mean() > 0.1


def test_mask_targets_far_from_the_corner_of_an_image_inside_padding(rng):
    """At pixel 1300 the last bit of a coordinate is worth 1e-4: they must be rounded as torchvision rounds them."""
    objects = (rng.random((2, 100, 167)) > 0.5).repeat(8, 1).repeat(8, 2)
    high, wide = objects.shape[1:]
    corner = rng.uniform([600, 300], [wide - 60, high - 60], (100, 2))
    boxes = np.concatenate([corner, np.minimum(corner + rng.uniform(1, 500, (100, 2)), [wide, high])], 1)
    boxes, target = boxes.astype(np.float32), rng.integers(0, 2, 100).astype(np.int32)
    given = (torch.from_numpy(objects.astype(np.uint8)), torch.from_numpy(boxes), torch.from_numpy(target).long())
    padded = masks.pack(np.pad(objects, [(0, 0), (0, 32), (0, 8)]))
    got = jax.jit(lambda *a, **extent: masks.crop_targets(*a, **extent))(padded, target, boxes, height=high, width=wide)
    np.testing.assert_allclose(got, roi_heads.project_masks_on_boxes(*given, 28).numpy(), atol=1e-5)


@pytest.mark.parametrize("side", [28, 7])
def test_pasted_masks(rng, side):
    boxes = random_boxes(rng, 120, outside=0.1)
    # torchvision cannot paste what is wholly outside.
    boxes = boxes[((boxes[:, 2:] > 1) & (boxes[:, :2] < [W - 1, H - 1])).all(1)]
    squares = rng.random((len(boxes), side, side)).astype(np.float32)
    want = roi_heads.paste_masks_in_image(torch.from_numpy(squares)[:, None], torch.from_numpy(boxes), (H, W))[:, 0]
    got = jax.jit(lambda m, b: masks.paste(m, b, size=(H, W)))(squares, boxes)
    assert len(boxes) > 80 and (boxes[:, 0] < 0).sum() > 10
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


def test_heatmap_targets(rng):
    boxes = random_boxes(rng, 400, smallest=8, outside=0.1)
    joints = boxes[:, None, :2] + rng.uniform(-0.1, 1.1, (400, 17, 2)) * (boxes[:, None, 2:] - boxes[:, None, :2])
    joints[:, 0], joints[:, 1] = boxes[:, :2], boxes[:, 2:]
    joints[::4] = np.round(joints[::4])
    joints = np.concatenate([joints, rng.integers(0, 3, (400, 17, 1))], -1).astype(np.float32)
    want = roi_heads.keypoints_to_heatmap(torch.from_numpy(joints), torch.from_numpy(boxes), 56)
    cell, valid = jax.jit(keypoints.heatmap_targets)(joints, boxes)
    np.testing.assert_array_equal(valid, want[1].numpy().astype(bool))
    np.testing.assert_array_equal(cell, want[0].numpy())
    assert 0.3 < valid.mean() < 0.9


@pytest.mark.parametrize("smooth", [True, False])
def test_joints_of_heat_maps(rng, smooth):
    boxes = random_boxes(rng, 60, smallest=2)
    if smooth:
        coarse = torch.from_numpy(rng.normal(0, 3, (60, 5, 9, 9)).astype(np.float32))
        maps = torch.nn.functional.interpolate(coarse, size=(56, 56), mode="bicubic", align_corners=False)
    else:
        maps = torch.from_numpy(rng.normal(0, 3, (60, 5, 56, 56)).astype(np.float32))
    places, scores = roi_heads.heatmaps_to_keypoints(maps, torch.from_numpy(boxes))
    decode = jax.jit(lambda m, b: keypoints.decode_heatmaps(m, b, max_size=(H, W)))
    got = decode(jnp.asarray(maps.permute(0, 2, 3, 1).numpy()), boxes)
    np.testing.assert_allclose(got[..., 2], scores.numpy(), atol=2e-5)
    unique = np.array([[lead(m, box) > 1e-4 for m in of_box] for of_box, box in zip(maps, boxes)])
    assert unique.mean() > 0.9
    np.testing.assert_array_equal(got[..., :2][unique], places[..., :2].numpy()[unique])


def lead(heatmap: torch.Tensor, box: np.ndarray) -> float:
    """How much the largest pixel of a resized map is above the second."""
    width, height = (max(1, int(np.ceil(side))) for side in box[2:] - box[:2])
    resized = torch.nn.functional.interpolate(
        heatmap[None, None].double(), size=(height, width), mode="bicubic", align_corners=False
    )
    best = resized.flatten().topk(min(2, resized.numel())).values
    return float(best[0] - best[-1]) if len(best) > 1 else np.inf
