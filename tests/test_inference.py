"""Images of any size: tiles say what the whole image says, mirror images are averaged, one program serves all sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from segjax import inference
from segjax.types import SegmentationMap

STRIDE = 4


class Network:
    """A small network of stride 4 that sees two cells, less than 12 pixels, to each side."""

    def __init__(self, rng, classes=4):
        shapes = {"stem": (4, 4, 3, 8), "body": (3, 3, 8, 8), "more": (3, 3, 8, classes)}
        self.weights = {name: rng.normal(size=shape).astype(np.float32) / 3 for name, shape in shapes.items()}
        self.shapes = []

    def predict(self, variables, images, sizes):
        self.shapes.append(images.shape)  # Python runs while tracing alone
        x = inference.as_floats(images) - 0.5
        h, w = x.shape[1:3]
        rows, columns = jnp.arange(h)[None, :, None, None], jnp.arange(w)[None, None, :, None]
        x = jnp.where((rows < sizes[:, 0, None, None, None]) & (columns < sizes[:, 1, None, None, None]), x, 0.0)
        conv = functools.partial(lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jnp.tanh(conv(x, variables["stem"], (STRIDE, STRIDE), "VALID"))
        x = jnp.tanh(conv(x, variables["body"], (1, 1), "SAME"))
        x = conv(x, variables["more"], (1, 1), "SAME")
        return SegmentationMap(jnp.repeat(jnp.repeat(x, STRIDE, axis=1), STRIDE, axis=2))

    def images(self):
        """(images, sizes) -> maps, jitted."""
        return functools.partial(jax.jit(self.predict), self.weights)


@pytest.fixture
def network(rng):
    return Network(rng)


def picture(rng, height, width):
    return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)


def test_any_size_is_padded_to_whole_strides_and_cut_back(rng, network):
    image = picture(rng, 37, 50)
    found = inference.predict_image(network.images(), image, multiple=STRIDE)
    assert found.logits.shape == (37, 50, 4) and network.shapes == [(1, 40, 52, 3)]
    padded = np.zeros((1, 40, 52, 3), np.uint8)
    padded[0, :37, :50] = image
    whole = network.predict(network.weights, padded, np.array([[37, 50]]))
    np.testing.assert_allclose(found.logits, whole.logits[0, :37, :50], atol=1e-5)
    assert inference.predict_image(network.images(), picture(rng, 1, 1), multiple=32).labels.shape == (1, 1)
    with pytest.raises(ValueError, match="multiple must be at least 1, got 0"):
        inference.predict_image(network.images(), image, multiple=0)


@pytest.mark.parametrize("size", [(150, 131), (64, 200), (130, 65)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_tiles_say_exactly_what_the_whole_image_says(rng, network, size, batch_size):
    image, predict = picture(rng, *size), network.images()
    whole = np.asarray(inference.predict_image(predict, image, multiple=STRIDE).labels)
    options = {"tile": 64, "multiple": STRIDE, "batch_size": batch_size}
    np.testing.assert_array_equal(inference.tiled(predict, image, overlap=24, **options), whole)
    assert len(np.unique(whole)) == 4
    assert (inference.tiled(predict, image, overlap=0, **options) != whole).any()


def test_tiles_of_every_image_are_one_program_of_constant_size(rng, network):
    predict = network.images()
    for size in ((20, 30), (64, 64), (65, 300), (400, 111)):
        labels = inference.tiled(predict, picture(rng, *size), tile=64, overlap=16, multiple=STRIDE, batch_size=2)
        assert labels.shape == size and labels.dtype == np.uint8
    assert network.shapes == [(2, 64, 64, 3)]


@pytest.mark.parametrize("length", [1, 63, 64, 65, 100, 128, 1000])
@pytest.mark.parametrize("overlap", [0, 13, 32])
def test_spans_cover_each_pixel_once_and_as_far_from_borders_as_they_can(length, overlap):
    step = (64 - overlap) // 8 * 8
    spans = inference.tile_spans(length, tile=64, step=step, multiple=8)
    assert [p for _, first, end in spans for p in range(first, end)] == list(range(length))
    starts = np.array([start for start, _, _ in spans])
    assert (starts % 8 == 0).all() and (np.diff(starts) <= step).all() and (np.diff(starts) > 0).all()
    for start, first, end in spans:
        for pixel in range(first, end):
            depths = np.minimum(pixel - starts + 0.5, starts + 64 - pixel - 0.5)
            depths[0] = np.where(pixel < starts[0] + 32, 32, depths[0])  # the image's own border is none of a tile
            depths[-1] = np.where(pixel >= starts[-1] + 32, 32, depths[-1])
            assert depths[list(starts).index(start)] == depths.max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 60, "overlap": 0}, "tile is 60; it must be a multiple of 32"),
        ({"tile": 0, "overlap": 0}, "tile is 0; it must be a multiple of 32"),
        ({"tile": 64, "overlap": 40}, "overlap is 40; with a tile of 64 it must be from 0 to 32"),
        ({"tile": 64, "overlap": -1}, "overlap is -1"),
        ({"tile": 64, "overlap": 0, "batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(rng, network, options, message):
    with pytest.raises(ValueError, match=message):
        inference.tiled(network.images(), picture(rng, 8, 8), **options)


SIZES = np.array([[32, 40], [24, 29]], np.int32)


@pytest.fixture
def batch(rng):
    images = np.zeros((2, 32, 40, 3), np.float32)
    for image, (h, w) in zip(images, SIZES):
        image[:h, :w] = rng.random((h, w, 3))
    return images


def mirrored(images):
    """Each image mirrored within its size, in NumPy."""
    images = np.array(images)
    for image, (_, w) in zip(images, SIZES):
        image[:, :w] = image[:, :w][:, ::-1]
    return images


def inside(maps):
    return [np.asarray(one)[:h, :w] for one, (h, w) in zip(maps, SIZES)]


def test_averaging_over_mirror_images_is_equivariant(network, batch):
    predict = inference.multi_scale(network.predict, scales=(1.0, 0.75), multiple=STRIDE)
    predict = jax.jit(predict)
    straight = predict(network.weights, batch, SIZES).probabilities
    turned = predict(network.weights, mirrored(batch), SIZES).probabilities
    for a, b in zip(inside(mirrored(straight)), inside(turned)):
        np.testing.assert_allclose(a, b, atol=1e-5)
    plain = network.predict(network.weights, batch, SIZES).probabilities
    turned = network.predict(network.weights, mirrored(batch), SIZES).probabilities
    assert max(abs(a - b).max() for a, b in zip(inside(mirrored(plain)), inside(turned))) > 0.01


def test_logits_are_the_logarithm_of_the_mean_probability(network, batch):
    predict = inference.multi_scale(network.predict, scales=(1.0,), multiple=STRIDE)
    found = predict(network.weights, batch, SIZES)
    plain = network.predict(network.weights, batch, SIZES).probabilities
    turned = mirrored(network.predict(network.weights, mirrored(batch), SIZES).probabilities)
    for a, b, c in zip(inside(found.probabilities), inside(plain), inside(turned)):
        np.testing.assert_allclose(a, (b + c) / 2, atol=1e-5)
    np.testing.assert_allclose(np.exp(found.logits).sum(-1), 1, atol=1e-5)
    once = inference.multi_scale(network.predict, scales=(1.0,), flip=False, multiple=STRIDE)
    for a, b in zip(inside(once(network.weights, batch, SIZES).probabilities), inside(plain)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_scales_see_resized_images_and_give_maps_of_the_images_size(batch):
    seen = []

    def predict(variables, images, sizes):
        seen.append((images.shape[1:3], np.asarray(sizes).tolist()))
        grey = images.mean(-1)
        return SegmentationMap(jnp.stack([grey, 1 - grey], axis=-1))

    found = inference.multi_scale(predict, scales=(0.5, 1.0, 2.0), flip=False)({}, batch, SIZES)
    assert found.logits.shape == (2, 32, 40, 2)
    assert seen == [
        ((32, 32), [[16, 20], [12, 15]]),
        ((32, 64), SIZES.tolist()),
        ((64, 96), [[64, 80], [48, 58]]),
    ]


def test_a_map_that_is_the_same_everywhere_stays_so_at_all_scales(batch):
    def predict(variables, images, sizes):
        return SegmentationMap(jnp.broadcast_to(jnp.array([0.0, 200.0, 1.0]), (*images.shape[:3], 3)))

    averaged = jax.jit(inference.multi_scale(predict, scales=(0.6, 1.3)))
    found = averaged({}, (batch * 255).astype(np.uint8), SIZES)
    assert np.isfinite(found.logits).all() and (found.labels == 1).all()
    assert inference.as_floats(np.array([[[[0, 51, 255]]]], np.uint8)).tolist() == [[[[0, pytest.approx(0.2), 1]]]]


@pytest.mark.parametrize("scales", [(), (1.0, 0.0), (float("nan"),)])
def test_scales_that_are_none_are_refused(network, scales):
    with pytest.raises(ValueError, match="scales must be one number above 0 or more"):
        inference.multi_scale(network.predict, scales=scales)
