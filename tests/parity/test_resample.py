"""Resampling against torch on the same numbers: values, places and gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from segjax.ops import resample  # noqa: E402
from segjax.ops.transposed import transposed_convolution  # noqa: E402

F = torch.nn.functional


def to_torch(x):
    """NHWC -> NCHW that takes a gradient."""
    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2))).requires_grad_()


def from_torch(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


SIZES = [
    ((5, 7), (13, 9)),
    ((8, 10), (64, 80)),
    ((13, 11), (5, 3)),
    ((1, 1), (33, 5)),
    ((3, 4), (1, 1)),
    ((9, 9), (65, 65)),
]


@pytest.mark.parametrize("before, after", SIZES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_interpolate(mode, align_corners, before, after, rng):
    x = rng.normal(size=(2, *before, 3)).astype(np.float32)
    cotangent = rng.normal(size=(2, *after, 3)).astype(np.float32)
    theirs_in = to_torch(x)
    theirs = F.interpolate(theirs_in, size=after, mode=mode, align_corners=align_corners)
    theirs.backward(to_torch(cotangent).detach())
    y, back = jax.vjp(lambda x: getattr(resample, mode)(x, size=after, align_corners=align_corners), jnp.asarray(x))
    # torch computes places in float32, off by up to 1e-5 of a cell.
    np.testing.assert_allclose(y, from_torch(theirs), rtol=1e-4, atol=3e-5)
    np.testing.assert_allclose(back(jnp.asarray(cotangent))[0], from_torch(theirs_in.grad), rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("exact", [False, True])
def test_nearest_takes_the_same_cells_at_every_size(exact):
    """Where i * in / out is a whole number, float32 can fall on either side of it: on torch's."""
    mode = "nearest-exact" if exact else "nearest"
    for before, after in itertools.product(range(1, 40, 3), range(1, 130, 4)):
        line = np.arange(before, dtype=np.float32)
        expected = F.interpolate(torch.from_numpy(line)[None, None, :, None], size=(after, 1), mode=mode)[0, 0, :, 0]
        ours = resample._nearest_taps(before, after, exact).index[:, 0]
        if before != after:
            np.testing.assert_array_equal(ours, expected, err_msg=f"{before} -> {after}")


@pytest.mark.parametrize("size", [(10, 14), (7, 5)])
@pytest.mark.parametrize("exact", [False, True])
def test_nearest_gradient(exact, size, rng):
    x, cotangent = rng.normal(size=(2, 5, 7, 3)), rng.normal(size=(2, *size, 3))
    theirs_in = to_torch(x.astype(np.float32))
    theirs = F.interpolate(theirs_in, size=size, mode="nearest-exact" if exact else "nearest")
    theirs.backward(to_torch(cotangent.astype(np.float32)).detach())
    y, back = jax.vjp(lambda x: resample.nearest(x, size=size, exact=exact), jnp.asarray(x, jnp.float32))
    np.testing.assert_array_equal(y, from_torch(theirs))
    slope = back(jnp.asarray(cotangent, jnp.float32))[0]
    np.testing.assert_allclose(slope, from_torch(theirs_in.grad), rtol=1e-5, atol=1e-6)


POOLS = [
    ((8, 6), 2, 2, 0),
    ((9, 7), 2, 2, 0),
    ((9, 8), 3, 2, 1),
    ((7, 7), 3, 1, 1),
    ((8, 8), 2, 3, 0),
    ((9, 9), 4, 3, 2),
]


@pytest.mark.parametrize("size, window, stride, padding", POOLS)
def test_max_pool_and_unpool(size, window, stride, padding, rng):
    x = rng.integers(0, 3, (2, *size, 3)).astype(np.float32)
    x[0, :4, :4, 0], x[1, 2:4, 2:5, 1] = -np.inf, np.nan
    theirs_in = to_torch(x)
    theirs, places = F.max_pool2d(theirs_in, window, stride, padding, return_indices=True)
    (pooled, indices), back = jax.vjp(
        lambda x: resample.max_pool_indices(x, window=window, stride=stride, padding=padding), jnp.asarray(x)
    )
    np.testing.assert_array_equal(pooled, from_torch(theirs))
    np.testing.assert_array_equal(indices, from_torch(places))
    cotangent = rng.normal(size=pooled.shape).astype(np.float32)
    theirs.backward(to_torch(cotangent).detach())
    (slope,) = back((jnp.asarray(cotangent), np.zeros(indices.shape, jax.dtypes.float0)))
    np.testing.assert_allclose(slope, from_torch(theirs_in.grad), rtol=1e-5, atol=1e-6)

    if stride < window:  # Two windows with one maximum: torch leaves open which value stays.
        return
    values = to_torch(cotangent)
    theirs = F.max_unpool2d(values, places, window, stride, output_size=size)
    theirs.backward(to_torch(x).detach().nan_to_num())
    for hint in (None, window) if stride == window else (None,):
        y, back = jax.vjp(
            lambda v, hint=hint: resample.max_unpool(v, indices, size=size, window=hint), jnp.asarray(cotangent)
        )
        np.testing.assert_array_equal(y, from_torch(theirs))
        np.testing.assert_array_equal(back(jnp.nan_to_num(jnp.asarray(x)))[0], from_torch(values.grad))


@pytest.mark.parametrize("dilation, groups", [(1, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize(
    "kernel, stride", [((3, 3), 1), ((2, 2), 2), ((4, 4), 2), ((1, 1), 2), ((5, 2), 3), ((8, 8), 4)]
)
def test_conv_transpose2d(kernel, stride, dilation, groups, rng):
    for padding, output_padding in ((0, 0), (1, 1), (2, 0), (2, 1)):
        smallest = min((n - 1) * stride - 2 * padding + dilation * (k - 1) + 1 for n, k in zip((4, 5), kernel))
        if output_padding >= max(stride, dilation) or smallest < 1:
            continue
        x = rng.normal(size=(2, 4, 5, 4)).astype(np.float32)
        weight = rng.normal(size=(*kernel, 4, 3)).astype(np.float32)
        bias = rng.normal(size=3 * groups).astype(np.float32)
        inputs = [to_torch(x), torch.from_numpy(weight.transpose(2, 3, 0, 1).copy()).requires_grad_()]
        inputs.append(torch.from_numpy(bias).requires_grad_())
        theirs = F.conv_transpose2d(*inputs, stride, padding, output_padding, groups, dilation)
        options = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
        y, back = jax.vjp(
            jax.jit(lambda *a, o=options: transposed_convolution(*a, groups=groups, **o)),
            *map(jnp.asarray, (x, weight, bias)),
        )
        np.testing.assert_allclose(y, from_torch(theirs), rtol=1e-4, atol=1e-4)
        cotangent = rng.normal(size=y.shape).astype(np.float32)
        theirs.backward(to_torch(cotangent).detach())
        of_x, of_weight, of_bias = back(jnp.asarray(cotangent))
        np.testing.assert_allclose(of_x, from_torch(inputs[0].grad), rtol=1e-4, atol=2e-4)
        np.testing.assert_allclose(of_weight, inputs[1].grad.permute(2, 3, 0, 1), rtol=1e-4, atol=2e-4)
        np.testing.assert_allclose(of_bias, inputs[2].grad, rtol=1e-4, atol=2e-4)
