"""Transforms: a rectangle painted into the image stays where its box says, whatever is done to both."""

import dataclasses

import numpy as np
import pytest

from segjax.data import transforms
from segjax.data.source import Example
from segjax.data.transforms import ColorJitter, HorizontalFlip, ScaleJitter


def painted(height, width, *boxes, background=0):
    """An example with the i-th box painted in channel i."""
    image = np.full((height, width, 3), background, np.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2, channel] = 255
    return Example(
        image=image, boxes=np.array(boxes, np.float32).reshape(-1, 4), labels=np.arange(len(boxes), dtype=np.int32)
    )


def extent(image, channel):
    """The box of the pixels that are more painted than not."""
    rows, columns = np.nonzero(image[..., channel] > 127)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def assert_boxes_match_pixels(example, tolerance):
    for box, label in zip(example.boxes, example.labels):
        np.testing.assert_allclose(extent(example.image, int(label)), box, atol=tolerance)


RECTANGLES = ((10, 12, 50, 40), (60, 5, 118, 70), (0, 50, 30, 90))


@pytest.mark.parametrize("size", [(90, 120), (180, 240), (270, 300), (45, 60), (100, 77)])
def test_resizing_moves_boxes_with_pixels(size):
    resized = transforms.resize(painted(90, 120, *RECTANGLES), size)
    assert resized.image.shape == (*size, 3)
    assert_boxes_match_pixels(resized, tolerance=0.51)


def test_resizing_is_bilinear_at_half_pixel_centres(rng):
    """Against a plain loop, which is what torch computes with align_corners=False and antialias=False."""
    image = rng.integers(0, 256, (7, 9, 3), np.uint8)
    example = Example(image=image, boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int32))
    for height, width in [(14, 20), (3, 4)]:
        expected = np.zeros((height, width, 3))
        for y in range(height):
            for x in range(width):
                v = np.clip((y + 0.5) * 7 / height - 0.5, 0, 6)
                u = np.clip((x + 0.5) * 9 / width - 0.5, 0, 8)
                top, left = int(v), int(u)
                bottom, right = min(top + 1, 6), min(left + 1, 8)
                upper = image[top, left] * (1 - u + left) + image[top, right] * (u - left)
                lower = image[bottom, left] * (1 - u + left) + image[bottom, right] * (u - left)
                expected[y, x] = upper * (1 - v + top) + lower * (v - top)
        actual = transforms.resize(example, (height, width)).image
        np.testing.assert_allclose(actual, expected, atol=1.0)


def test_cropping_keeps_every_object_and_clips_it():
    cropped = transforms.crop(painted(90, 120, *RECTANGLES), top=20, left=20, height=50, width=60)
    np.testing.assert_array_equal(cropped.boxes, [[0, 0, 30, 20], [40, 0, 60, 50], [0, 30, 10, 50]])
    assert_boxes_match_pixels(cropped, tolerance=0)
    outside = transforms.crop(painted(90, 120, *RECTANGLES), top=0, left=0, height=10, width=10)
    assert (outside.boxes[2, 3] - outside.boxes[2, 1]) == 0


def test_flipping_mirrors_boxes_and_pixels_exactly(rng):
    example = painted(90, 120, *RECTANGLES)
    flipped = HorizontalFlip(1.0)(example, rng)
    assert_boxes_match_pixels(flipped, tolerance=0)
    np.testing.assert_array_equal(flipped.image, example.image[:, ::-1])
    twice = HorizontalFlip(1.0)(flipped, rng)
    np.testing.assert_array_equal(twice.boxes, example.boxes)
    assert HorizontalFlip(0.0)(example, rng) is example


def test_half_of_the_images_are_flipped(rng):
    example = painted(4, 4)
    flipped = sum(HorizontalFlip(0.5)(example, rng) is not example for _ in range(1000))
    assert 440 < flipped < 560


def test_letterbox_pads_below_and_to_the_right_and_comes_back():
    example = painted(90, 120, *RECTANGLES, background=30)
    boxed, size = transforms.letterbox(example, (160, 300))
    assert size == (160, 213)
    assert boxed.image.shape == (160, 300, 3)
    assert (boxed.image[:, 213:] == 0).all()
    assert (boxed.image[:, :213].max(axis=2) >= 30).all()
    np.testing.assert_allclose(transforms.unletterbox(boxed.boxes, size, (90, 120)), example.boxes, rtol=1e-6)
    on_black, _ = transforms.letterbox(painted(90, 120, *RECTANGLES), (160, 300))
    assert_boxes_match_pixels(on_black, tolerance=0.51)


def test_a_canvas_refuses_a_larger_image():
    with pytest.raises(ValueError, match="90x120 does not fit into 64x128"):
        transforms.place(np.zeros((90, 120, 3), np.uint8), np.zeros((64, 128, 3), np.uint8))


@pytest.mark.parametrize("scales", [(0.3, 0.9), (1.1, 3.0)])
@pytest.mark.parametrize("bucket", [(96, 128), (200, 150)])
def test_scale_jitter_moves_boxes_with_pixels(rng, scales, bucket):
    example = painted(90, 120, *RECTANGLES)
    jitter = ScaleJitter(scales, min_visible=0.0)
    for _ in range(40):
        jittered = jitter(example, rng, bucket)
        assert jittered.image.shape[0] <= bucket[0] and jittered.image.shape[1] <= bucket[1]
        # Where an image shrinks without antialiasing, an edge moves by up to half a pixel more.
        assert_boxes_match_pixels(jittered, tolerance=1.01)


def test_scale_jitter_reaches_the_scales_it_is_given(rng):
    example = painted(90, 120, (0, 0, 120, 90))
    scales = [ScaleJitter((0.5, 1.0))(example, rng, (90, 120)).image.shape[0] / 90 for _ in range(300)]
    assert 0.49 < min(scales) < 0.53 and 0.97 < max(scales) <= 1
    assert abs(np.mean(scales) - 0.75) < 0.03
    same = ScaleJitter((1.0, 1.0))(example, rng, (180, 240))
    np.testing.assert_array_equal(same.image, transforms.fit_inside(example, rng, (180, 240)).image)


def test_scale_jitter_drops_what_the_crop_leaves_too_little_of(rng):
    example = painted(90, 120, *RECTANGLES)
    original = transforms.resize(example, (270, 360)).boxes  # at scale 3 of a bucket as large as the image
    areas = np.prod(original[:, 2:] - original[:, :2], axis=1)
    kept = 0
    for _ in range(100):
        jittered = ScaleJitter((3.0, 3.0), min_visible=0.5)(example, rng, (90, 120))
        sides = jittered.boxes[:, 2:] - jittered.boxes[:, :2]
        assert (np.prod(sides, axis=1) >= 0.49 * areas[jittered.labels]).all()
        kept += len(sides)
    assert 0 < kept < 150


def test_scale_jitter_drops_objects_below_a_pixel(rng):
    example = painted(100, 100, (10, 10, 90, 90), (5, 5, 6, 95))
    jittered = ScaleJitter((0.5, 0.5))(example, rng, (100, 100))
    assert jittered.labels.tolist() == [0]
    assert ScaleJitter((0.5, 0.5), min_size=0.25)(example, rng, (100, 100)).labels.tolist() == [0, 1]


def test_no_objects_pass_through_everything(rng):
    example = painted(30, 40)
    for transform in (HorizontalFlip(1.0), ColorJitter()):
        assert transform(example, rng).boxes.shape == (0, 4)
    assert ScaleJitter((2.0, 2.0))(example, rng, (30, 40)).boxes.shape == (0, 4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1)])
def test_extreme_shapes_keep_at_least_a_pixel(rng, shape):
    example = painted(*shape)
    assert min(ScaleJitter((0.1, 4.0))(example, rng, (64, 64)).image.shape) >= 1
    assert min(transforms.fit_inside(example, rng, (64, 64)).image.shape) >= 1


def colour_oracle(image, brightness, contrast, saturation):
    image = image.astype(np.float64) * brightness
    gray = image @ [0.299, 0.587, 0.114]
    image = contrast * image + (1 - contrast) * gray.mean()
    gray = image @ [0.299, 0.587, 0.114]
    return np.clip(saturation * image + (1 - saturation) * gray[..., None], 0, 255)


def test_colour_jitter_equals_its_three_steps(rng):
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    example = dataclasses.replace(painted(20, 30), image=image)
    for seed in range(5):
        actual = ColorJitter(0.3, 0.4, 0.5)(example, np.random.default_rng(seed)).image
        drawn = np.random.default_rng(seed)
        factors = [drawn.uniform(1 - x, 1 + x) for x in (0.3, 0.4, 0.5)]
        np.testing.assert_allclose(actual, colour_oracle(image, *factors), atol=1.0)
    np.testing.assert_array_equal(ColorJitter(0.0, 0.0, 0.0)(example, rng).image, image)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HorizontalFlip(1.5),
        lambda: ColorJitter(contrast=2.0),
        lambda: ScaleJitter((2.0, 1.0)),
        lambda: ScaleJitter(min_visible=-1.0),
    ],
)
def test_values_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="not"):
        make()
