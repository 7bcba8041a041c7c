"""Backbones, necks and norms: shapes, strides, numbers of parameters, and values by hand."""

import inspect

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from segjax.models.layers.conv import Conv, max_pool
from segjax.models.layers.fpn import FPN, NoNeck
from segjax.models.layers.normalize import normalize, pixel_mask
from segjax.models.layers.norms import BatchNorm, FrozenBatchNorm, GroupNorm, norm_layer
from segjax.models.layers.resnet import ResNet

IMAGE = jax.ShapeDtypeStruct((2, 96, 128, 3), jnp.float32)
PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
"""Of torchvision's ResNets (the tables of `ResNet*_Weights`), with their last layer for 1000 classes."""


def size(tree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("depth", PARAMETERS)
def test_resnet_shapes_and_parameters(depth, key):
    net = ResNet(depth, "batch")
    maps, variables = jax.eval_shape(net.init_with_output, key, IMAGE)
    expansion = 1 if depth < 50 else 4
    assert net.strides == (4, 8, 16, 32)
    for i, (x, stride) in enumerate(zip(maps, net.strides)):
        assert x.shape == (2, 96 // stride, 128 // stride, 64 * 2**i * expansion)
    last = (512 * expansion + 1) * 1000
    assert size(variables["params"]) + last == PARAMETERS[depth]


def test_resnet_builds_no_stage_that_nobody_asked_for(key):
    net = ResNet(18, "group", 8, stages=(2, 3))
    maps, variables = jax.eval_shape(net.init_with_output, key, IMAGE)
    assert net.strides == (8, 16)
    assert [x.shape for x in maps] == [(2, 12, 16, 16), (2, 6, 8, 32)]
    assert set(variables["params"]) == {"stem", "stem_norm", "layer1", "layer2", "layer3"}


def test_unknown_depths_and_norms_are_refused(key):
    with pytest.raises(ValueError, match=r"depth is 19; ResNet comes in depths 18, 34, 50, 101, 152\."):
        jax.eval_shape(ResNet(19).init, key, IMAGE)
    with pytest.raises(
        ValueError, match=r"norm is 'instance'; choose one of 'frozen_batch', 'batch', 'group', 'layer'\."
    ):
        inspect.unwrap(norm_layer)("instance")  # under the annotations that the tests enforce


@pytest.mark.parametrize("height, width", [(96, 128), (100, 76)])
def test_fpn_shapes(height, width, key):
    sides = [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
    maps = [jax.ShapeDtypeStruct((2, *side, 8 * 2**i), jnp.float32) for i, side in enumerate(sides)]
    outputs, variables = jax.eval_shape(FPN(16).init_with_output, key, maps)
    extra = (-(-sides[-1][0] // 2), -(-sides[-1][1] // 2))
    assert [x.shape for x in outputs] == [(2, *side, 16) for side in [*sides, extra]]
    lateral = sum((8 * 2**i + 1) * 16 for i in range(4))
    assert size(variables) == lateral + 4 * (9 * 16 + 1) * 16


def test_fpn_sums_from_the_top(key):
    """With 1x1 and 3x3 kernels that pass everything on, a level is the sum of itself and all coarser ones."""
    maps = [jnp.full((1, n, n, 1), float(v)) for n, v in ((8, 1), (4, 10), (2, 100))]
    net = FPN(1)
    params = jax.tree.map(jnp.zeros_like, net.init(key, maps)["params"])
    for name, layer in params.items():
        kernel = layer["kernel"]
        layer["kernel"] = kernel.at[kernel.shape[0] // 2, kernel.shape[1] // 2].set(1.0)
        layer["bias"] = layer["bias"] + (0.5 if name == "inner2" else 0.0)
    values = [np.unique(x).tolist() for x in net.apply({"params": params}, maps)]
    assert values == [[111.5], [110.5], [100.5], [100.5]]


@pytest.mark.parametrize(("extra", "shapes"), [
    ("none", []),
    ("subsampled", [(3, 2)]),
    ("convolved", [(3, 2), (2, 1)]),
    ("convolved_input", [(3, 2), (2, 1)]),
])  # fmt: skip
def test_fpn_coarser_levels(extra, shapes, rng):
    """By hand: a convolution of stride 2 of the pyramid's last map or of the input's, a rectifier and another."""
    maps = [jnp.asarray(rng.normal(size=(1, *size, 3)).astype(np.float32)) for size in ((10, 8), (5, 4))]
    net = FPN(2, extra=extra)
    outputs, variables = net.init_with_output(jax.random.key(1), maps)
    assert [x.shape[1:3] for x in outputs] == [(10, 8), (5, 4), *shapes]
    params = variables["params"]
    assert {name for name in params if name.startswith("extra")} == {f"extra{i}" for i in range(len(shapes) // 2 * 2)}
    if len(shapes) == 2:
        expected, params = maps[1] if extra == "convolved_input" else outputs[1], jax.tree.map(np.asarray, params)
        for i, found in enumerate(outputs[2:]):
            expected = np.pad(expected, ((0, 0), (1, 1), (1, 1), (0, 0)))
            weight = params[f"extra{i}"]["kernel"]
            expected = np.stack([[
                np.einsum("ijc,ijco->o", expected[0, y : y + 3, x : x + 3], weight)
                for x in range(0, expected.shape[2] - 2, 2)] for y in range(0, expected.shape[1] - 2, 2)
            ])[None]  # fmt: skip
            np.testing.assert_allclose(found, expected, atol=1e-5)
            expected = np.maximum(expected, 0)


def test_fpn_names_a_wrong_kind_of_coarser_levels(key):
    jaxtyping.config.update("jaxtyping_disable", True)  # the annotations that the tests enforce would speak first
    try:
        with pytest.raises(ValueError, match="extra is 'pooled'; choose one of 'subsampled', 'convolved'"):
            FPN(2, extra="pooled").init(key, [jnp.zeros((1, 4, 4, 3))])
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_fpn_with_norms_has_no_biases(key):
    maps = [jax.ShapeDtypeStruct((2, n, n, 8), jnp.float32) for n in (8, 4, 4)]
    outputs, variables = jax.eval_shape(FPN(16, norm="batch").init_with_output, key, maps)
    assert [x.shape for x in outputs] == [(2, n, n, 16) for n in (8, 4, 4, 2)]
    assert set(variables["params"]["layer2"]) == {"kernel"}
    assert set(variables["batch_stats"]) == {f"{kind}{i}_norm" for kind in ("inner", "layer") for i in range(3)}
    _, updated = jax.eval_shape(
        lambda v, x: FPN(16, norm="batch").apply(v, x, train=True, mutable=["batch_stats"]), variables, maps
    )
    assert jax.tree.structure(updated["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


def test_no_neck_passes_maps_on():
    maps = [jnp.ones((1, 4, 4, 3))]
    assert NoNeck().apply({}, maps, train=True)[0] is maps[0]


@pytest.mark.parametrize("kernel, stride, dilation", [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (7, 2, 1)])
def test_conv_against_loops(kernel, stride, dilation, rng):
    x = jnp.asarray(rng.normal(size=(1, 9, 8, 2)), jnp.float32)
    conv = Conv(3, kernel, stride, dilation, bias=True)
    variables = conv.init(jax.random.key(0), x)
    bias = rng.normal(size=3).astype(np.float32)
    variables = {"params": {**variables["params"], "bias": jnp.asarray(bias)}}
    weight = np.asarray(variables["params"]["kernel"])
    pad = dilation * (kernel - 1) // 2
    padded = np.pad(np.asarray(x[0]), ((pad, pad), (pad, pad), (0, 0)))
    expected = np.zeros((-(-9 // stride), -(-8 // stride), 3))
    for i in range(expected.shape[0]):
        for j in range(expected.shape[1]):
            for u in range(kernel):
                for v in range(kernel):
                    expected[i, j] += padded[i * stride + u * dilation, j * stride + v * dilation] @ weight[u, v]
    np.testing.assert_allclose(conv.apply(variables, x)[0], expected + bias, rtol=1e-4, atol=1e-5)


def test_max_pool_pads_with_nothing():
    x = -jnp.arange(1, 17, dtype=jnp.float32).reshape(1, 4, 4, 1)
    pooled = max_pool(x, window=3, stride=2, padding=1)
    np.testing.assert_array_equal(pooled[0, :, :, 0], [[-1, -2], [-5, -6]])


def test_frozen_batch_norm_is_affine_and_not_trained(rng):
    x = jnp.asarray(rng.normal(size=(2, 3, 3, 4)), jnp.float32)
    norm = FrozenBatchNorm()
    variables = norm.init(jax.random.key(0), x)
    assert set(variables) == {"frozen"}
    parts = {name: jnp.asarray(rng.uniform(0.5, 2, 4), jnp.float32) for name in ("scale", "bias", "mean", "var")}
    y, after = norm.apply({"frozen": parts}, x, train=True, mutable=["frozen", "batch_stats"])
    scale, bias, mean, var = (np.asarray(parts[name]) for name in ("scale", "bias", "mean", "var"))
    expected = (np.asarray(x) - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert all((after["frozen"][name] == parts[name]).all() for name in parts)


@pytest.mark.parametrize("channels, groups", [(64, 32), (8, 8), (48, 24), (7, 7)])
def test_group_norm_takes_as_many_groups_as_divide_the_channels(channels, groups, rng):
    x = jnp.asarray(rng.normal(2, 3, (2, 4, 4, channels)), jnp.float32)
    y, _ = GroupNorm().init_with_output(jax.random.key(0), x)
    grouped = np.asarray(x).reshape(2, 16, groups, -1)
    mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    np.testing.assert_allclose(y, ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape), rtol=1e-3, atol=1e-3)


def test_layer_norm_is_of_a_position(rng):
    """Each position has mean 0 and variance 1 over its channels, whatever the others are."""
    x = rng.normal(2, 3, (2, 4, 5, 6)).astype(np.float32)
    norm = norm_layer("layer")()
    variables = norm.init(jax.random.key(0), jnp.asarray(x))
    found = norm.apply(variables, jnp.asarray(x), train=True)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(norm.apply(variables, jnp.asarray(x[:, 1:2, 2:4])), found[:, 1:2, 2:4], atol=1e-6)


def test_batch_norm_over_what_is_valid(rng):
    """Moments, running ones and gradients are those of the valid regions alone; the others are normalised alike."""
    x = jnp.asarray(rng.normal(5, 2, (2, 3, 4, 4, 6)), jnp.float32)
    valid = jnp.asarray([[True, False, True], [False, False, True]])
    norm = BatchNorm(momentum=0.9)
    start = norm.init(jax.random.key(0), x)
    run = jax.jit(lambda x, valid: norm.apply(start, x, train=True, valid=valid, mutable=["batch_stats"]))
    y, new = run(x, valid)
    kept = np.asarray(x)[np.asarray(valid)]
    mean, var = kept.mean((0, 1, 2)), kept.var((0, 1, 2))
    np.testing.assert_allclose(y, (np.asarray(x) - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(new["batch_stats"]["norm"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["norm"]["var"], 0.9 + 0.1 * var, rtol=1e-5)
    # One axis of regions, or what is not valid replaced: the same.
    flat, _ = run(x.reshape(6, 4, 4, 6), valid.reshape(6))
    np.testing.assert_array_equal(flat.reshape(x.shape), y)
    _, other = run(jnp.where(valid[..., None, None, None], x, 1e6), valid)
    np.testing.assert_array_equal(other["batch_stats"]["norm"]["var"], new["batch_stats"]["norm"]["var"])
    # The mean of normalised values does not depend on their inputs.
    total = lambda x: jnp.sum(jnp.where(valid[..., None, None, None], run(x, valid)[0], 0.0))  # noqa: E731
    np.testing.assert_allclose(jax.grad(total)(x), 0.0, atol=1e-4)


def test_batch_norm_where_nothing_is_valid():
    x, none = jnp.full((3, 2, 2, 4), 7.0), jnp.zeros(3, bool)
    norm = BatchNorm()
    start = norm.init(jax.random.key(0), x)
    start["batch_stats"]["norm"]["mean"] = jnp.full(4, 0.3)
    run = lambda x: norm.apply(start, x, train=True, valid=none, mutable=["batch_stats"])  # noqa: E731
    y, new = run(x)
    np.testing.assert_array_equal(y, norm.apply(start, x))
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], start["batch_stats"])
    assert jnp.isfinite(jax.grad(lambda x: run(x)[0].sum())(x)).all()


def test_batch_norm_far_from_zero(rng):
    """The variance of a channel whose mean is a thousand deviations away."""
    x = 1000 + rng.normal(size=(4, 8, 8, 3))
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), jnp.zeros((1, 1, 1, 3)))
    y, _ = norm.apply(variables, jnp.asarray(x, jnp.float32), train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.std((0, 1, 2)), 1.0, rtol=1e-3)


@pytest.mark.parametrize("name", ["batch", "group", "layer", "frozen_batch"])
def test_norms_take_regions_on_two_axes(name, rng):
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 4, 8)), jnp.float32)
    norm = norm_layer(name)()
    variables = norm.init(jax.random.key(0), x)
    options = {"train": True, "mutable": ["batch_stats"]}
    y, _ = norm.apply(variables, x, valid=jnp.ones((2, 3), bool), **options)
    flat, _ = norm.apply(variables, x.reshape(6, 4, 4, 8), **options)
    np.testing.assert_allclose(y, flat.reshape(x.shape), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["batch", "group", "frozen_batch"])
def test_norms_take_an_epsilon(name):
    """A map of one value, alternating in sign: normalised by its variance and epsilon, or by the running variance."""
    x = jnp.asarray([1.0, -1.0]).reshape(1, 2, 1, 1) * jnp.ones((1, 2, 2, 4))
    norm = norm_layer(name, epsilon=3.0)()
    y, _ = norm.apply(norm.init(jax.random.key(0), x), x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, 0.5 * x, rtol=1e-6)


@pytest.mark.parametrize("name", ["batch", "group", "layer", "frozen_batch"])
def test_norms_compute_in_their_dtype(name, key):
    x = jax.ShapeDtypeStruct((2, 4, 4, 8), jnp.bfloat16)
    y, variables = jax.eval_shape(norm_layer(name, dtype=jnp.bfloat16)().init_with_output, key, x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_normalize_bytes_floats_and_padding():
    images = np.zeros((1, 2, 3, 3), np.uint8)
    images[0, 0, 0], images[0, 1, 2] = (255, 0, 51), (9, 9, 9)
    sizes = np.array([[2, 2]], np.int32)
    mean, std = (0.5, 0.5, 0.5), (0.5, 0.25, 0.1)
    out = np.asarray(normalize(jnp.asarray(images), jnp.asarray(sizes), mean=mean, std=std))
    np.testing.assert_allclose(out[0, 0, 0], [1, -2, -3], rtol=1e-5)
    np.testing.assert_allclose(out[0, 1, 1], [-1, -2, -5], rtol=1e-5)
    np.testing.assert_array_equal(out[0, :, 2], 0)
    floats = normalize(jnp.asarray(images / np.float32(255)), jnp.asarray(sizes), mean=mean, std=std)
    np.testing.assert_allclose(floats, out, rtol=1e-6)
    np.testing.assert_array_equal(pixel_mask(jnp.asarray(sizes), 2, 3)[0], [[True, True, False]] * 2)
