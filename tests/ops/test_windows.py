"""Windows of a pyramid: where they lie, by counting; what they see, by images that tell where each pixel is."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.windows import (
    WindowLayout,
    count_windows,
    cut_windows,
    decode_edges,
    encode_edges,
    level_grids,
    window_boxes,
    window_pyramid,
)

LAYOUT = WindowLayout(((1.0, 1.0), (0.6, 2.0), (1.7, 0.5), (0.1, 1.0)), side=9, stride=4, margin=3)
SIZES = [(32, 40), (41, 23), (3, 9)]


def starts(pixels, layout):
    """Where windows begin along a side, one after the other until its end and the margin are covered."""
    found = [-layout.margin]
    while found[-1] + layout.side < pixels + layout.margin:
        found.append(found[-1] + layout.stride)
    return found


def by_loops(size, layout):
    """(boxes, windows of each level), a window at a time."""
    boxes, counts = [], []
    for scale, aspect in layout.levels:
        height = max(1, round(size[0] * scale * math.sqrt(aspect)))
        width = max(1, round(size[1] * scale / math.sqrt(aspect)))
        factors = np.array([size[1] / width, size[0] / height] * 2)
        corners = [(x, y) for y in starts(height, layout) for x in starts(width, layout)]
        level = [factors * (x, y, x + layout.side, y + layout.side) for x, y in corners]
        boxes += level
        counts.append(len(level))
    return np.array(boxes), tuple(counts)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", [LAYOUT, LAYOUT._replace(margin=0, side=2, stride=3)])
def test_windows_equal_the_loops(size, layout):
    expected, counts = by_loops(size, layout)
    assert count_windows(size, layout) == counts
    np.testing.assert_allclose(jax.jit(lambda: window_boxes(size, layout))(), expected, rtol=1e-5, atol=1e-4)


def test_scale_and_aspect_are_what_windows_cover():
    """Of a large image, where rounding is small: side / scale pixels by area, so many times as wide as high."""
    layout = LAYOUT._replace(levels=((0.5, 2.0), (2.0, 0.5)))
    boxes = np.asarray(jax.jit(lambda: window_boxes((1000, 1400), layout))())
    first, last = boxes[0], boxes[-1]
    for (x1, y1, x2, y2), (scale, aspect) in zip((first, last), layout.levels):
        assert math.sqrt((x2 - x1) * (y2 - y1)) == pytest.approx(9 / scale, rel=5e-3)
        assert (x2 - x1) / (y2 - y1) == pytest.approx(aspect, rel=5e-3)


@pytest.mark.parametrize("size", SIZES[:2])
def test_a_window_sees_what_it_covers(size):
    """Of an image whose pixels hold their own centres (x, y), by position: all of it but the border and the margin."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    image, boxes = (
        jnp.asarray(np.stack([x, y], axis=-1), jnp.float32),
        np.asarray(jax.jit(lambda: window_boxes(size, LAYOUT))()),
    )
    cut = jax.jit(lambda image, indices: cut_windows(image, indices, LAYOUT))
    seen = np.asarray(cut(image, jnp.arange(len(boxes), dtype=jnp.int32)))
    cells, checked = (np.arange(9) + 0.5) / 9, 0
    for (x1, y1, x2, y2), pixels in zip(boxes, seen):
        across, down = x1 + cells * (x2 - x1), y1 + cells * (y2 - y1)
        own_x, own_y = (across > 0.5) & (across < size[1] - 0.5), (down > 0.5) & (down < size[0] - 0.5)
        own, expected = np.ix_(own_y, own_x), np.stack(np.meshgrid(across[own_x], down[own_y]), axis=-1)
        np.testing.assert_allclose(pixels[own], expected, atol=1e-3)
        outside = np.ix_((down < 0) | (down > size[0]), np.ones(9, bool))
        assert not pixels[outside].any()
        checked += own_x.sum() * own_y.sum()
    assert checked > 0.4 * seen[..., 0].size


@pytest.mark.parametrize("size", SIZES)
def test_windows_are_cut_from_the_pyramid(size, rng):
    """Each is what NumPy cuts from its level; the levels end where their last windows do."""
    image = jnp.asarray(rng.normal(size=(1, *size, 2)), jnp.float32)
    levels = jax.device_get(jax.jit(lambda image: window_pyramid(image, LAYOUT))(image))
    grids, expected = level_grids(LAYOUT, size), []
    for level, grid in zip(levels, grids):
        assert level.shape == (1, (grid.rows - 1) * 4 + 9, (grid.columns - 1) * 4 + 9, 2)
        corners = [(4 * row, 4 * column) for row in range(grid.rows) for column in range(grid.columns)]
        expected += [level[0, y : y + 9, x : x + 9] for y, x in corners]
    indices = jnp.arange(len(expected), dtype=jnp.int32)
    indices = jax.random.permutation(jax.random.key(0), indices)
    found = jax.jit(lambda image, indices: cut_windows(image, indices, LAYOUT))(image[0], indices)
    np.testing.assert_allclose(found, np.stack(expected)[np.asarray(indices)], atol=1e-6)


def test_edges_and_back(rng):
    corner = rng.uniform(-20, 40, (50, 2))
    windows = np.concatenate([corner, corner + rng.uniform(5, 30, (50, 2))], axis=1)
    sides = np.tile(windows[:, 2:] - windows[:, :2], 2)
    offsets = rng.uniform(-0.45, 0.45, (50, 4))
    boxes = windows + offsets * sides
    windows, boxes, offsets = (jnp.asarray(x, jnp.float32) for x in (windows, boxes, offsets))
    np.testing.assert_allclose(encode_edges(boxes, windows), offsets, atol=1e-4)
    np.testing.assert_allclose(decode_edges(offsets, windows), boxes, atol=1e-3)
    np.testing.assert_array_equal(decode_edges(jnp.zeros_like(windows), windows), windows)


def test_edges_far_off():
    window = jnp.asarray([[10.0, 20, 20, 40]])
    # No edge moves by more than a side, and a box that is turned inside out has no area.
    np.testing.assert_allclose(decode_edges(jnp.asarray([[-9.0, 0, 9, 0]]), window), [[0, 20, 30, 40]])
    np.testing.assert_allclose(decode_edges(jnp.asarray([[0.8, 0, -0.8, 0]]), window), [[15, 20, 15, 40]])
    nan = decode_edges(jnp.full((1, 4), jnp.nan), window)
    assert jnp.isnan(nan).all()


@pytest.mark.parametrize(("change", "size", "message"), [
    ({"levels": ()}, (8, 8), r"levels is \(\); give one or more pairs"),
    ({"levels": ((1.0, 0.0),)}, (8, 8), r"give one or more pairs \(scale, aspect\), all above 0"),
    ({"stride": 0}, (8, 8), "have side 9, stride 0 and margin 3; side and stride must be at least 1"),
    ({"margin": -1}, (8, 8), "margin -1; side and stride must be at least 1, the margin at least 0"),
    ({}, (0, 8), "an image of 0 x 8 pixels has no windows"),
])  # fmt: skip
def test_what_cannot_be_is_refused(change, size, message):
    with pytest.raises(ValueError, match=message):
        count_windows(size, LAYOUT._replace(**change))
