"""Window by window and all at once: the same numbers; and what patches are drawn for training."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from segjax.models.layers.normalize import normalize
from segjax.models.sliding_window import Layer, PatchNet, sample_pixels, sliding_window, window_count
from segjax.types import IGNORE
from tests import tiny

CLASSES = 3
NETWORK = PatchNet(CLASSES, patch=22, layers=(Layer(4, 3, 2), Layer(6, 3, 2)), hidden=8)
THIRDS = PatchNet(CLASSES, patch=21, layers=(Layer(4, 4, 3), Layer(5, 2, 2)), hidden=8)
"""Poolings of different sides, one of which leaves cells over."""


def labelled(**options):
    batch = tiny.batch_of(tiny.TWO, side=32, **options)
    labels = np.where(batch.images.max(axis=-1) > 180, batch.images.argmax(axis=-1), 1).astype(np.uint8)
    return jax.tree.map(jnp.asarray, batch.replace(label_map=labels))


@pytest.fixture(scope="module")
def variables():
    """Of both networks, with weights large enough for logits that spread."""

    def made(network):
        tree = jax.jit(network.init)(jax.random.key(3), jnp.zeros((1, network.patch, network.patch, 3)))
        return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), tree)

    return {network: made(network) for network in (NETWORK, THIRDS)}


@pytest.mark.parametrize("network", [NETWORK, THIRDS], ids=["halves", "thirds"])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8])
def test_windows_and_image_give_the_same(network, stride, variables, rng):
    """For strides that share all, some or no factor with those of the poolings."""
    images = jnp.asarray(rng.uniform(size=(2, 33, 30, 3)), jnp.float32)
    own = {"params": {"patch": variables[network]["params"]}}
    sizes = jnp.array([[33, 30], [25, 30]])
    found = {}
    for inference in ("windows", "convolutional"):
        model = sliding_window(CLASSES, network=network, stride=stride, inference=inference, chunk=32)
        found[inference] = jax.jit(model.predict)(own, images, sizes).logits
    assert found["windows"].shape == (2, 33, 30, CLASSES)
    spread = np.std(found["windows"], axis=(0, 1, 2))
    assert (spread > 0.05).all()
    np.testing.assert_allclose(found["convolutional"], found["windows"], atol=1e-5 * spread.max() + 1e-5)


@pytest.mark.parametrize("stride", [1, 3])
def test_a_window_is_about_the_middle_of_its_pixels(stride, variables, rng):
    """Against patches that NumPy cuts out. With odd strides a window's middle is a pixel, whose logits are its own."""
    images, sizes = jnp.asarray(rng.uniform(size=(1, 12, 15, 3)), jnp.float32), jnp.array([[12, 15]])
    model = sliding_window(CLASSES, network=NETWORK, stride=stride)
    logits = jax.jit(model.predict)({"params": {"patch": variables[NETWORK]["params"]}}, images, sizes).logits[0]
    half = NETWORK.patch // 2
    padded = np.pad(np.asarray(normalize(images, sizes))[0], ((half, half), (half, half), (0, 0)))
    patches = sliding_window_view(padded, (NETWORK.patch, NETWORK.patch), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    pixels = [(y, x) for y in range(stride // 2, 12, 3) for x in range(stride // 2, 15, 3)]
    chosen = jnp.asarray(np.stack([patches[pixel] for pixel in pixels]))
    expected = jax.jit(NETWORK.apply)(variables[NETWORK], chosen)[:, 0, 0]
    np.testing.assert_allclose(np.stack([logits[pixel] for pixel in pixels]), expected, atol=1e-5)


@pytest.mark.parametrize("size, stride, count", [(128, 4, 32), (130, 4, 33), (3, 16, 1), (16, 16, 1), (17, 1, 17)])
def test_every_pixel_has_a_window(size, stride, count):
    assert window_count(size, stride) == count == len(range(0, size, stride))


def test_the_maps_cost_a_fraction_of_the_windows(variables):
    """By XLA's count of operations, at stride 1: windows of 22 pixels share nearly all of their work."""
    images, sizes = jnp.zeros((1, 32, 32, 3)), jnp.array([[32, 32]])
    own = {"params": {"patch": variables[NETWORK]["params"]}}
    flops = {}
    for inference in ("windows", "convolutional"):
        # One chunk: XLA counts the body of a loop once.
        model = sliding_window(CLASSES, network=NETWORK, stride=1, inference=inference, chunk=1024)
        flops[inference] = jax.jit(model.predict).lower(own, images, sizes).compile().cost_analysis()["flops"]
    assert flops["windows"] > 10 * flops["convolutional"]


LABELS = np.full((8, 10), IGNORE, np.uint8)
LABELS[:4, :5], LABELS[0, 0], LABELS[6:, 6:] = 0, 2, 1
"""19 pixels of class 0, 8 of class 1, one of class 2, the others without."""


@pytest.mark.parametrize("balanced, shares", [(True, [1 / 3, 1 / 3, 1 / 3]), (False, [19 / 28, 8 / 28, 1 / 28])])
def test_pixels_are_drawn_by_class_or_alike(balanced, shares, key):
    count = 3000
    pixels = np.asarray(sample_pixels(key, jnp.asarray(LABELS), count=count, balanced=balanced, classes=4))
    labels = LABELS[pixels[:, 0], pixels[:, 1]]
    drawn = np.bincount(labels, minlength=3) / count
    np.testing.assert_allclose(drawn, shares, atol=4 * math.sqrt(0.25 / count))
    # Within a class all pixels are alike, the first and the last ones too.
    of_one = [(y, x) for (y, x), label in zip(pixels.tolist(), labels) if label == 1]
    seen = {pixel: of_one.count(pixel) for pixel in zip(*map(np.ndarray.tolist, np.nonzero(LABELS == 1)))}
    assert min(seen.values()) > 0.5 * len(of_one) / 8 and sum(seen.values()) == len(of_one)


def test_without_labels_nothing_is_learnt(key):
    """No NaN, no gradient: every drawn pixel is one that does not count."""
    model = sliding_window(CLASSES, network=NETWORK, samples=4)
    batch = labelled().replace(label_map=jnp.full((2, 32, 32), IGNORE, jnp.uint8))
    variables = jax.jit(model.init)(key, batch)

    def total(params):
        return sum(model.losses({"params": params}, batch, key)[0].values())

    value, gradient = jax.jit(jax.value_and_grad(total))(variables["params"])
    assert value == 0 and all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))


def test_it_learns(key):
    """Colour alone tells the classes here: after a few steps most pixels have theirs."""
    model, batch = sliding_window(CLASSES, network=NETWORK, stride=2, samples=16), labelled()
    variables, first, last = tiny.overfit(model, batch, steps=60)
    assert set(first) == {"cross_entropy"} and last["cross_entropy"] < 0.5 * first["cross_entropy"]
    found = jax.jit(model.predict)(variables, batch.images, batch.sizes).labels
    assert np.mean(np.asarray(found) == np.asarray(batch.label_map)) > 0.6


def test_what_cannot_be_is_refused(key):
    for option in ("stride", "samples", "chunk"):
        with pytest.raises(ValueError, match=rf"{option} is 0; it must be at least 1"):
            sliding_window(CLASSES, **{option: 0})
    with pytest.raises(ValueError, match=r"patches are 20 x 20, and this network's are 22 wide"):
        NETWORK.init(key, jnp.zeros((1, 20, 20, 3)))
    with pytest.raises(ValueError, match="leave nothing of a patch of 6 pixels"):
        dataclasses.replace(NETWORK, patch=6).init(key, jnp.zeros((1, 6, 6, 3)))
    batch = labelled().replace(label_map=None)
    model = sliding_window(CLASSES, network=NETWORK)
    with pytest.raises(ValueError, match="this model learns from label maps, and the batch has none"):
        model.losses({}, batch, key)
