import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import anchors as anchor_ops


def test_cell_anchors_are_ratio_major_and_rounded():
    found = anchor_ops.cell_anchors(sizes=(32, 64), ratios=(0.5, 1.0))
    # 32 / sqrt(0.5) = 45.25 wide and 22.63 high: half of it rounds to 23 and 11.
    np.testing.assert_array_equal(
        found, [[-23, -11, 23, 11], [-45, -23, 45, 23], [-16, -16, 16, 16], [-32] * 2 + [32] * 2]
    )


def test_cell_anchors_have_the_area_and_the_ratio_asked_for():
    found = np.asarray(anchor_ops.cell_anchors(sizes=(512,), ratios=(0.5, 1.0, 2.0)))
    width, height = found[:, 2] - found[:, 0], found[:, 3] - found[:, 1]
    np.testing.assert_allclose(height / width, [0.5, 1, 2], rtol=1e-2)
    np.testing.assert_allclose(width * height, 512**2, rtol=1e-2)


@pytest.mark.parametrize("jit", [True, False])
def test_grid_anchors_are_location_major(jit):
    def build():
        return anchor_ops.grid_anchors((2, 3), stride=(8, 16), sizes=(4, 8), ratios=(1.0,))

    found = (jax.jit(build) if jit else build)()
    cells = [(-2, -2, 2, 2), (-4, -4, 4, 4)]
    expected = [np.add(cell, [x, y, x, y]) for y in (0, 8) for x in (0, 16, 32) for cell in cells]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == jnp.float32


def test_grid_points_are_the_centres_of_cells():
    expected = [(4, 4), (12, 4), (20, 4), (4, 12), (12, 12), (20, 12)]
    np.testing.assert_array_equal(anchor_ops.grid_points((2, 3), stride=8), expected)


def test_pyramid_anchors_give_each_level_its_size():
    shapes, strides, sizes = [(4, 6), (2, 3)], [8, (16, 20)], [(16,), (32, 48)]
    levels = anchor_ops.pyramid_anchors(shapes, strides=strides, sizes=sizes, ratios=(0.5, 1.0))
    assert [level.shape for level in levels] == [(48, 4), (24, 4)]
    for level, shape, stride, size in zip(levels, shapes, strides, sizes, strict=True):
        expected = anchor_ops.grid_anchors(shape, stride=stride, sizes=size, ratios=(0.5, 1.0))
        np.testing.assert_array_equal(level, expected)


def test_anchors_are_not_written_out_in_the_program():
    def total():
        return anchor_ops.grid_anchors((200, 300), stride=4, sizes=(32,), ratios=(0.5, 1.0, 2.0)).sum()

    assert len(jax.jit(total).lower().as_text()) < 20_000


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anchor_ops.cell_anchors(sizes=(), ratios=(1.0,)), "sizes"),
        (lambda: anchor_ops.cell_anchors(sizes=(8,), ratios=(0.0,)), r"ratios=\(0.0,\)"),
        (lambda: anchor_ops.grid_points((0, 3), stride=8), r"shape=\(0, 3\)"),
        (lambda: anchor_ops.grid_points((3, 3), stride=0), "stride"),
        (lambda: anchor_ops.pyramid_anchors([(2, 2)], strides=[8, 16], sizes=[(8,)], ratios=(1.0,)), "got 1, 2 and 1"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
