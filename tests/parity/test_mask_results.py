"""Masks laid over the image on the host, pixel by pixel against torchvision's."""

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from segjax.data.segmentations import segmentation_to_mask
from segjax.evaluation.mask_results import encode_masks

BOXES = [
    [10.3, 20.7, 60.2, 90.9],
    [-5.5, -3.2, 40.0, 30.0],  # over the corner
    [100, 50, 160, 130],  # over the other corner
    [0, 0, 150, 120],  # the whole image
    [70.1, 30.2, 70.4, 31.0],  # a fraction of a pixel
    [30, 40, 30, 40],  # of no size
    [5, 5, 14, 14],
    [-400, -300, 600, 500],  # far larger than the image
]


@pytest.mark.parametrize("parts", [28, 14, 7])
def test_masks_are_those_of_torchvision(parts, rng):
    height, width, n = 120, 150, len(BOXES)
    coarse = rng.random((n, 1, 4, 4), dtype=np.float32)
    masks = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(parts, parts), mode="bilinear")
    boxes = np.asarray(BOXES, np.float32)
    expected = paste_masks_in_image(masks, torch.from_numpy(boxes), (height, width), padding=1)[:, 0].numpy()
    encoded = encode_masks(masks[:, 0].numpy(), boxes, height=height, width=width)
    found = np.stack([segmentation_to_mask(runs, height, width) for runs in encoded])
    clear = np.abs(expected - 0.5) > 1e-4
    np.testing.assert_array_equal(found[clear], (expected > 0.5)[clear])
    assert clear.mean() > 0.99 and found.sum() > 10_000
