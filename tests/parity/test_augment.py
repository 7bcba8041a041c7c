"""Colour and patches against torchvision's transforms, given the same numbers."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from segjax.data import photometric
from segjax.data.augment import IoUCrop, ZoomOut
from segjax.data.source import Example
from segjax.data.transforms import crop, stretch
from tests.parity.conftest import random_images, random_objects


@pytest.fixture
def image(rng):
    return random_images(rng, (70, 90))[0]


def as_torch(image):
    return torch.from_numpy(image).permute(2, 0, 1)


@pytest.mark.parametrize(("ours", "theirs", "amounts"), [
    (photometric.adjust_brightness, F.adjust_brightness, (0.0, 0.875, 1.125, 1.9)),
    (photometric.adjust_contrast, F.adjust_contrast, (0.0, 0.5, 1.3, 1.5)),
    (photometric.adjust_saturation, F.adjust_saturation, (0.0, 0.5, 1.3, 1.5)),
    (photometric.adjust_hue, F.adjust_hue, (-0.5, -0.05, 0.02, 0.3)),
])  # fmt: skip
def test_colours(image, ours, theirs, amounts):
    """torchvision cuts off what lies between bytes, where we round, and rounds greys and means of greys down."""
    for amount in amounts:
        expected = theirs(as_torch(image), amount).permute(1, 2, 0).numpy().astype(int)
        difference = np.abs(ours(image, amount).astype(int) - expected)
        assert difference.max() <= 1


def example_of(rng, size):
    objects = random_objects(rng, size, 6)
    return Example(
        random_images(rng, size)[0], objects.boxes, objects.labels.astype(np.int32), objects.masks.astype(np.uint8)
    )


def test_patches_are_cut_as_torchvision_cuts_them(rng):
    """torchvision draws a patch and marks the objects that it drops with empty boxes; the same patch, cut by us."""
    example, found = example_of(rng, (70, 90)), 0
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(example.boxes), format="XYXY", canvas_size=(70, 90))
    inputs = [tv_tensors.Image(as_torch(example.image)), boxes, tv_tensors.Mask(torch.from_numpy(example.masks))]
    for seed in range(40):
        torch.manual_seed(seed)
        params = v2.RandomIoUCrop().make_params(inputs)
        if not params:
            continue
        image, boxes, masks = (v2.RandomIoUCrop().transform(one, params) for one in inputs)
        window = {name: params[name] for name in ("top", "left", "height", "width")}
        ours = crop(example, **window)
        kept = params["is_within_crop_area"].numpy()
        np.testing.assert_array_equal(ours.image, image.permute(1, 2, 0))
        np.testing.assert_allclose(ours.boxes[kept], boxes.numpy()[kept], atol=1e-4)
        np.testing.assert_array_equal(ours.masks, masks)
        found += 1
    assert found > 20


def test_patches_are_distributed_as_torchvision_s(rng):
    """Share of whole images, mean area of the others, and mean number of objects kept, over many seeds."""
    example = example_of(rng, (70, 90))
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(example.boxes), format="XYXY", canvas_size=(70, 90))
    inputs = [tv_tensors.Image(as_torch(example.image)), boxes]
    ours, theirs, count = [], [], 600
    torch.manual_seed(0)
    for seed in range(count):
        after = IoUCrop()(example, np.random.default_rng(seed))
        ours.append((after is example, after.image[..., 0].size / 6300, len(after.labels)))
        params = v2.RandomIoUCrop().make_params(inputs)
        whole = not params
        area = 1.0 if whole else params["height"] * params["width"] / 6300
        theirs.append((whole, area, 6 if whole else int(params["is_within_crop_area"].sum())))
    ours, theirs = np.array(ours, float), np.array(theirs, float)
    error = np.sqrt((ours.var(axis=0) + theirs.var(axis=0)) / count)
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 4 * error).all()


def test_zooming_out_pads_as_torchvision_pads(rng):
    example = example_of(rng, (70, 90))
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(example.boxes), format="XYXY", canvas_size=(70, 90))
    for seed in range(5):
        ours = ZoomOut(1.0)(example, np.random.default_rng(seed))
        left, top = np.rint(ours.boxes[0] - example.boxes[0]).astype(int)[:2].tolist()
        right, bottom = ours.image.shape[1] - left - 90, ours.image.shape[0] - top - 70
        pad = [left, top, right, bottom]
        image = F.pad(tv_tensors.Image(as_torch(example.image)), pad, fill=[124.0, 116.0, 104.0])
        np.testing.assert_array_equal(ours.image, image.permute(1, 2, 0))
        np.testing.assert_allclose(ours.boxes, F.pad(boxes, pad).numpy(), atol=1e-4)
        np.testing.assert_array_equal(ours.masks, F.pad(tv_tensors.Mask(torch.from_numpy(example.masks)), pad))


def test_stretching_is_torchvision_s_resize(rng):
    example = example_of(rng, (70, 90))
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(example.boxes), format="XYXY", canvas_size=(70, 90))
    for size in ((100, 100), (48, 200)):
        ours = stretch(example, rng, size)
        image = F.resize(tv_tensors.Image(as_torch(example.image)), list(size), antialias=False)
        np.testing.assert_allclose(ours.image.astype(int), image.permute(1, 2, 0).numpy().astype(int), atol=1)
        np.testing.assert_allclose(ours.boxes, F.resize(boxes, list(size)).numpy(), atol=1e-3)
