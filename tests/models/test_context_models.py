"""Hypercolumns, multi-scale networks and recurrent refinement: what each promises of its arithmetic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.models.hypercolumns import HypercolumnHead, hypercolumns, interpolate_classifiers
from segjax.models.layers.plain import PlainNet
from segjax.models.layers.vgg import VGG16
from segjax.models.multi_scale import MultiScaleNet, image_pyramid, multi_scale
from segjax.models.refinement import refinement
from segjax.ops import resample
from tests.models.test_encoder_decoders import ODD, SIZES, labelled, shapes, size

CLASSES = 3
SMALL = {
    "hypercolumns": hypercolumns(CLASSES, backbone=VGG16("group", 4, (2, 3)), grid=2, kernel=3),
    "multi-scale": multi_scale(CLASSES, channels=(4, 8), kernel=3, hidden=(8,), norm="batch"),
    "refinement": refinement(CLASSES, channels=(4, 8), kernel=3, iterations=3),
}


@pytest.mark.parametrize("name", SMALL)
def test_images_of_any_size_keep_it(name, key):
    model = SMALL[name]
    variables = shapes(model, key)
    assert jax.eval_shape(lambda *args: model.predict(*args).logits, variables, ODD, SIZES).shape == (1, 37, 50, 3)
    terms = {"cross_entropy"} | ({"cross_entropy_1", "cross_entropy_2"} if name == "refinement" else set())
    losses, after = jax.eval_shape(model.losses, variables, labelled(), key)
    assert set(losses) == terms
    assert jax.tree.structure(after) == jax.tree.structure(variables)


def test_classifying_first_is_stacking_first(key, rng):
    """Scores upsampled and summed are those of one matrix on the upsampled, stacked features of each pixel."""
    maps = [jnp.asarray(rng.normal(size=(2, *side)), jnp.float32) for side in ((8, 12, 3), (4, 6, 5), (2, 3, 7))]
    head = HypercolumnHead(CLASSES)
    variables = jax.jit(head.init)(key, maps)
    column = np.concatenate([np.asarray(resample.bilinear(x, size=(8, 12))) for x in maps], axis=-1)
    params = variables["params"]
    matrix = np.concatenate([np.asarray(params[f"level{i}"]["kernel"])[0, 0] for i in (1, 2, 3)])
    assert matrix.shape == (15, CLASSES)
    expected = column @ matrix + np.asarray(params["level1"]["bias"])
    np.testing.assert_allclose(head.apply(variables, maps), expected, atol=1e-5 * np.abs(expected).max() + 1e-7)


def located(scores):
    """Pixel by pixel: the four classifiers whose cells' middles are nearest, by the areas opposite them."""
    b, height, width, k, _, classes = scores.shape
    result = np.zeros((b, height, width, classes))
    for y in range(height):
        for x in range(width):
            row, column = (np.clip((p + 0.5) * k / n - 0.5, 0, k - 1) for p, n in ((y, height), (x, width)))
            i, j = int(row), int(column)
            for di, wi in ((0, 1 - (row - i)), (1, row - i)):
                for dj, wj in ((0, 1 - (column - j)), (1, column - j)):
                    result[:, y, x] += wi * wj * scores[:, y, x, min(i + di, k - 1), min(j + dj, k - 1)]
    return result


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_classifiers_are_interpolated_to_each_pixel(k, rng):
    scores = rng.normal(size=(2, 7, 9, k, k, 2)).astype(np.float32)
    np.testing.assert_allclose(interpolate_classifiers(jnp.asarray(scores)), located(scores), atol=1e-5)


def test_places_differ_where_classifiers_do(key):
    """The same features everywhere: with one classifier the same logits, with a grid of them others in each corner."""
    maps = [jnp.ones((1, 6, 6, 4))]
    for grid, alike in ((1, True), (2, False)):
        head = HypercolumnHead(CLASSES, grid)
        logits = head.apply(jax.jit(head.init)(key, maps), maps)[0]
        assert np.allclose(logits[0, 0], logits[5, 5], atol=1e-6) == alike


@pytest.mark.parametrize("side", [(16, 24), (13, 10)])
def test_a_laplacian_pyramid_adds_up_to_the_image(side, rng):
    x = jnp.asarray(rng.normal(size=(1, *side, 3)), jnp.float32)
    details = image_pyramid(x, levels=3, kind="laplacian")
    levels = image_pyramid(x, levels=3, kind="gaussian")
    assert [y.shape for y in details] == [y.shape for y in levels]
    assert levels[2].shape[1:3] == tuple(-(-n // 4) for n in side)
    total = details[2]
    for detail in details[1::-1]:
        total = detail + resample.bilinear(total, size=detail.shape[1:3])
    np.testing.assert_allclose(total, x, atol=1e-5)
    np.testing.assert_array_equal(levels[2], details[2])
    assert float(jnp.abs(details[0]).mean()) < float(jnp.abs(x).mean())


def test_halves_of_even_sides_are_means_of_four(rng):
    x = rng.normal(size=(2, 8, 12, 3)).astype(np.float32)
    means = x.reshape(2, 4, 2, 6, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(image_pyramid(jnp.asarray(x), levels=2, kind="gaussian")[1], means, atol=1e-6)


def test_scales_share_one_network(key, rng):
    """Each scale has the channels that the network alone gives for its image, and one set of parameters serves all."""
    network = PlainNet((2, 4), 3)
    x = jnp.asarray(rng.normal(size=(1, 16, 24, 3)), jnp.float32)
    net = MultiScaleNet(network, scales=3, pyramid="gaussian")
    variables = jax.jit(net.init)(key, x)
    assert size(variables) == size(jax.eval_shape(network.init, key, x))
    maps = net.apply(variables, x).maps
    assert maps.shape == (1, 8, 12, 12)
    own = {"params": variables["params"]["network"]}
    for i, level in enumerate(image_pyramid(x, levels=3, kind="gaussian")):
        expected = resample.bilinear(network.apply(own, level), size=(8, 12))
        np.testing.assert_allclose(maps[..., 4 * i : 4 * i + 4], expected, atol=1e-5)


def test_each_scale_and_iteration_has_statistics_of_its_own(key, rng):
    """Running moments of a scale are those that the network alone finds on its level, and prediction uses them."""
    network = PlainNet((4,), 3, norm="batch")
    x = jnp.asarray(rng.normal(size=(2, 16, 24, 3)), jnp.float32)
    net = MultiScaleNet(network, scales=2)
    variables = jax.jit(net.init)(key, x)
    _, after = jax.jit(lambda v: net.apply(v, x, train=True, mutable=["batch_stats"]))(variables)
    stats, params = (tree["network"]["conv1"] for tree in (after["batch_stats"], variables["params"]))
    assert set(stats) == {"norm", "norm_scale1"} and set(params) == {"conv", *stats}
    for name, level in zip(stats, image_pyramid(x, levels=2, kind="laplacian")):
        alone = {"params": {"conv1": {"conv": params["conv"], "norm": params["norm"]}}}
        _, found = network.apply(alone, level, train=True, mutable=["batch_stats"])
        for moment in ("mean", "var"):
            expected = found["batch_stats"]["conv1"]["norm"]["norm"][moment]
            np.testing.assert_allclose(stats[name]["norm"][moment], expected, rtol=1e-5, atol=1e-6)
    model = refinement(CLASSES, channels=(4,), kernel=3, iterations=3, norm="batch")
    norms = shapes(model, key)["batch_stats"]["refinement"]["network"]["conv1"]
    assert set(norms) == {"norm", "norm_iteration2", "norm_iteration3"}


def test_iterations_cost_no_parameters(key):
    counts = {n: size(shapes(refinement(CLASSES, channels=(4,), iterations=n), key)) for n in (1, 2, 4)}
    assert len(set(counts.values())) == 1


def test_refinement_reads_and_trains_its_own_guess(key):
    """The second guess depends on the first, and its loss on every kernel by way of the first guess too."""
    batch = labelled()
    one, two = (refinement(CLASSES, channels=(4, 6), kernel=3, iterations=n) for n in (1, 2))
    variables = jax.jit(one.init)(key, batch)
    first, both = jax.jit(one.losses)(variables, batch, key)[0], jax.jit(two.losses)(variables, batch, key)[0]
    # The first of two guesses is the only one of one; the second is another.
    assert both["cross_entropy_1"] == pytest.approx(float(first["cross_entropy"]))
    assert float(both["cross_entropy"]) != pytest.approx(float(first["cross_entropy"]), abs=1e-9)


def test_the_gradient_reaches_the_first_iteration(key):
    """The slope of the last loss, all parameters growing together, is the one that finite differences find.

    They see both iterations; a gradient that stopped at the first guess would miss its share.
    """
    batch = labelled()
    model = refinement(CLASSES, channels=(4,), kernel=3, iterations=2)
    variables = jax.jit(model.init)(key, batch)
    # Larger last weights: else the first guess says nothing and nothing depends on it.
    params = jax.tree.map(lambda x: 5 * x, variables["params"])

    def last(params, scale):
        moved = jax.tree.map(lambda x: x * scale, params)
        return model.losses({"params": moved}, batch, key)[0]["cross_entropy"]

    slope = jax.jit(jax.grad(last, argnums=1))(params, jnp.float32(1))
    step = 1e-2
    run = jax.jit(last)
    numeric = (run(params, jnp.float32(1 + step)) - run(params, jnp.float32(1 - step))) / (2 * step)
    assert float(abs(slope)) > 1e-3
    np.testing.assert_allclose(slope, numeric, rtol=0.02)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="grid is 0; it has at least one classifier"):
        hypercolumns(CLASSES, backbone=VGG16(), grid=0)
    with pytest.raises(ValueError, match="scales is 0; there is at least one"):
        multi_scale(CLASSES, scales=0)
    with pytest.raises(ValueError, match="iterations is 0; the network is applied at least once"):
        refinement(CLASSES, iterations=0)
    for make in (multi_scale, refinement, functools.partial(hypercolumns, backbone=VGG16())):
        with pytest.raises(ValueError, match="kernel is 4; it must be odd"):
            make(CLASSES, kernel=4)
