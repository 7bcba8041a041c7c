"""Transposed convolution, the learned upsampling, in torch's geometry."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

FEW_TAPS = 4
"""Taps up to which a CPU takes the weight gradient as matrix products, a multiple faster: XLA writes it as a
convolution whose kernel is as large as the map."""

Pads = tuple[int, int]


def transposed_convolution(
    x: Float[Array, "*b h w c"],
    kernel: Float[Array, "kh kw c out_per_group"],
    bias: Float[Array, " out"] | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Float[Array, "*b h2 w2 out"]:
    """Each cell of `x` adds its stamp to the output: torch's `conv_transpose2d` over NHWC, all of one dtype.

    Stamps lie `stride` apart, `padding` cells are cut off on every side and `output_padding` added below and to the
    right: h2 = (h - 1) stride - 2 padding + dilation (kh - 1) + 1 + output_padding. It is computed as one convolution
    whose outputs are the `stride`^2 phases of a block (Shi et al. 2016), so that no product with a zero is made.

    Args:
        x: the maps.
        kernel: [kh kw in out/groups], rows and columns in the order of the output's, as torch has them. Group g maps
            the g-th part of the input channels to the g-th part of the output channels.
        bias: added to every cell.

    Raises:
        ValueError: channels do not divide into `groups`, `output_padding` is not below stride or dilation, or nothing
            would be left.
    """
    *lead, h, w, channels = x.shape
    if groups < 1 or channels % groups:
        raise ValueError(f"transposed_convolution: {channels} channels do not divide into groups={groups}")
    if stride < 1 or dilation < 1 or padding < 0 or not 0 <= output_padding < max(stride, dilation):
        raise ValueError(
            f"transposed_convolution: stride={stride} and dilation={dilation} must be at least 1, padding={padding} at "
            f"least 0, and output_padding={output_padding} from 0 to below the larger of stride and dilation"
        )
    # A dilated kernel is one with zeros between.
    spread = (0, 0, dilation - 1)
    kernel = jax.lax.pad(kernel, jnp.zeros((), kernel.dtype), [spread, spread, (0, 0, 0), (0, 0, 0)])
    axes = [_Phases(n, k, stride, padding, output_padding) for n, k in zip((h, w), kernel.shape[:2])]
    kernel = _phase_kernel(kernel, axes, stride, groups)
    y = _convolve(x.reshape(-1, h, w, channels), kernel, axes[0].pads, axes[1].pads, groups)
    y = y.reshape(*y.shape[:3], groups, stride, stride, -1).transpose(0, 1, 4, 2, 5, 3, 6)
    y = y.reshape(y.shape[0], y.shape[1] * stride, y.shape[3] * stride, -1)
    (top, left), (height, width) = zip(*((axis.cut, axis.after) for axis in axes))
    y = y[:, top : top + height, left : left + width].reshape(*lead, height, width, -1)
    return y if bias is None else y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class _Phases:
    """One axis of a transposed convolution: blocks of `stride` cells, of which those from `first` on are computed."""

    def __init__(self, before: int, kernel: int, stride: int, padding: int, output_padding: int):
        self.after = (before - 1) * stride - 2 * padding + kernel + output_padding
        if self.after < 1:
            raise ValueError(
                f"transposed_convolution: padding={padding} leaves nothing of {before} cells with a kernel of {kernel}"
            )
        self.taps = -(-kernel // stride)
        first, behind = padding // stride, -(-(padding + self.after) // stride)
        self.pads = (self.taps - 1 - first, behind - before)
        self.cut = padding - first * stride


def _phase_kernel(kernel: Array, axes: list[_Phases], stride: int, groups: int) -> Array:
    """The taps of each phase: [taps taps in/groups groups*stride^2*out/groups] from [kh kw in out/groups]."""
    kh, kw, channels, outputs = kernel.shape
    rows, cols = (axis.taps for axis in axes)
    kernel = jnp.pad(kernel, ((0, rows * stride - kh), (0, cols * stride - kw), (0, 0), (0, 0)))
    kernel = kernel.reshape(rows, stride, cols, stride, groups, channels // groups, outputs)[::-1, :, ::-1]
    kernel = kernel.transpose(0, 2, 5, 4, 1, 3, 6)
    return kernel.reshape(rows, cols, channels // groups, groups * outputs * stride**2)


def _convolve(x: Array, kernel: Array, rows: Pads, cols: Pads, groups: int) -> Array:
    taps = kernel.shape[0] * kernel.shape[1]
    if taps == 1 and groups == 1:
        # Where stamps do not overlap it is a matrix product, which a CPU takes faster as one, backward above all.
        x = _shifted(x, kernel, rows, cols, 0, 0)
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:-1], -1)
    few = groups == 1 and taps <= FEW_TAPS
    return (_convolve_few if few else _convolve_any)(x, kernel, rows, cols, groups)


def _convolve_any(x: Array, kernel: Array, rows: Pads, cols: Pads, groups: int) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), (rows, cols), dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolve_few(x: Array, kernel: Array, rows: Pads, cols: Pads, groups: int) -> Array:
    """`_convolve_any`, with a weight gradient that suits the platform. Reverse mode only."""
    return _convolve_any(x, kernel, rows, cols, groups)


def _convolve_few_fwd(x, kernel, rows, cols, groups):
    return _convolve_any(x, kernel, rows, cols, groups), (x, kernel)


def _convolve_few_bwd(rows, cols, groups, saved, gradient):
    x, kernel = saved
    (of_x,) = jax.linear_transpose(lambda x: _convolve_any(x, kernel, rows, cols, groups), x)(gradient)

    def by_convolution(x, gradient):
        return jax.linear_transpose(lambda k: _convolve_any(x, k, rows, cols, groups), kernel)(gradient)[0]

    def by_products(x, gradient):
        flat = gradient.reshape(-1, gradient.shape[-1])
        shifted = (_shifted(x, kernel, rows, cols, i, j) for i, j in np.ndindex(*kernel.shape[:2]))
        taps = [jnp.matmul(s.reshape(-1, s.shape[-1]).T, flat, preferred_element_type=jnp.float32) for s in shifted]
        return jnp.stack(taps).reshape(kernel.shape).astype(kernel.dtype)

    return of_x, jax.lax.platform_dependent(x, gradient, cpu=by_products, default=by_convolution)


_convolve_few.defvjp(_convolve_few_fwd, _convolve_few_bwd)


def _shifted(x: Array, kernel: Array, rows: Pads, cols: Pads, i: int, j: int) -> Array:
    """What tap (i, j) of the kernel sees, for every output cell."""
    h, w = (n + sum(pads) - k + 1 for n, k, pads in zip(x.shape[1:3], kernel.shape, (rows, cols)))
    edges = [(rows[0] - i, i + h - x.shape[1] - rows[0], 0), (cols[0] - j, j + w - x.shape[2] - cols[0], 0)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
