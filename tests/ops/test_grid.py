"""The codec of grid cells against loops over objects and cells."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops.grid import cell_places, decode_cells, encode_cells, responsible_cells

SIZE = (96, 160)


def plain_cell(value, side, grid):
    """The last of the intervals [k * side / grid, (k + 1) * side / grid) that begins at or before `value`."""
    return max(k for k in range(grid) if k * side <= value * grid)


def plain_encode(boxes, labels, valid, grid, size):
    """By loops: {cell: (x, y, w, h, label, index)} and the number of objects lost."""
    height, width = size
    found, lost = {}, 0
    for i, ((x1, y1, x2, y2), label) in enumerate(zip(np.asarray(boxes, np.float64), labels)):
        if not valid[i]:
            continue
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        if not (0 <= cx <= width and 0 <= cy <= height):
            lost += 1
            continue
        column, row = plain_cell(cx, width, grid), plain_cell(cy, height, grid)
        x, y = cx / width * grid - column, cy / height * grid - row
        new = (x, y, (x2 - x1) / width, (y2 - y1) / height, label, i)
        cell = row * grid + column
        if cell in found:
            lost += 1
            if new[2] * new[3] <= found[cell][2] * found[cell][3]:
                continue
        found[cell] = new
    return found, lost


def some_objects(rng, count, size=SIZE):
    height, width = size
    corners = np.sort(rng.uniform(0, 1, (count, 2, 2)), axis=1) * [width, height]
    return corners.reshape(count, 4).astype(np.float32), rng.integers(0, 5, count, dtype=np.int32)


def encoded(boxes, labels, valid=None, *, grid=7, size=SIZE):
    valid = np.ones(len(boxes), bool) if valid is None else valid
    arrays = (jnp.asarray(boxes, jnp.float32).reshape(-1, 4), jnp.asarray(labels, jnp.int32), jnp.asarray(valid, bool))
    return jax.device_get(encode_cells(*arrays, grid=grid, size=size))


@pytest.mark.parametrize(("grid", "size"), [(7, SIZE), (1, SIZE), (3, (50, 50)), (13, (448, 448))])
def test_every_cell_is_that_of_the_loops(rng, grid, size):
    lost = 0
    for count in (0, 1, 4, 30):
        boxes, labels = some_objects(rng, count, size)
        valid = rng.uniform(size=count) < 0.8
        cells = encoded(boxes, labels, valid, grid=grid, size=size)
        expected, expected_lost = plain_encode(boxes, labels, valid, grid, size)
        assert np.flatnonzero(cells.present).tolist() == sorted(expected) and cells.lost == expected_lost
        for cell in range(grid**2):
            *box, label, index = expected.get(cell, (0, 0, 0, 0, 0, 0))
            np.testing.assert_allclose(cells.boxes[cell], box, atol=2e-5)
            assert (cells.labels[cell], cells.index[cell]) == (label, index)
        lost += expected_lost
    assert lost > 0


def test_it_comes_back(rng):
    boxes, labels = some_objects(rng, 40)
    cells = encoded(boxes, labels, grid=9)
    again = decode_cells(jnp.asarray(cells.boxes), cell_places(9), grid=9, size=SIZE)
    assert cells.present.sum() > 15
    np.testing.assert_allclose(again[cells.present], boxes[cells.index[cells.present]], atol=5e-5)
    assert (cells.boxes[..., :2] >= 0).all() and (cells.boxes[..., :2] <= 1).all()


@pytest.mark.parametrize("side", [448, 160, 100, 641])
@pytest.mark.parametrize("grid", [3, 7, 10])
def test_a_border_belongs_to_the_cell_behind_it(grid, side):
    """Centres on the borders that float32 can hold, and one number to each side of it."""
    borders = [k * side / grid for k in range(1, grid) if (64 * k * side) % grid == 0]
    centres = np.array([[np.nextafter(np.float32(x), np.float32(0)), x] for x in borders], np.float32).reshape(-1)
    boxes = np.stack([centres, 0 * centres, centres, 0 * centres], axis=-1)
    cells = jax.jit(functools.partial(responsible_cells, grid=grid, size=(side, side)))(jnp.asarray(boxes))
    assert cells.tolist() == [plain_cell(float(x), side, grid) for x in centres]
    assert (np.diff(cells.reshape(-1, 2)) == 1).all()


def test_the_images_edge_belongs_to_its_last_cell():
    boxes = [[0, 0, 0, 0], [160, 0, 160, 0], [0, 96, 0, 96], [160, 96, 160, 96], [161, 5, 161, 5], [5, -1, 5, -1]]
    cell = responsible_cells(jnp.asarray(boxes, jnp.float32), grid=7, size=SIZE)
    assert cell.tolist() == [0, 6, 42, 48, -1, -1]
    cells = encoded([[159, 95, 161, 97]], [2])
    assert np.flatnonzero(cells.present).tolist() == [48] and cells.boxes[48, :2].tolist() == [1, 1]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_largest_of_a_cell_is_kept(order):
    boxes, labels = np.array([[40, 40, 50, 50], [30, 30, 60, 60], [41, 41, 49, 49]], np.float32), np.array([3, 4, 1])
    cells = encoded(boxes[list(order)], labels[list(order)], grid=2)
    assert (cells.lost, cells.labels[0], cells.index[0]) == (2, 4, order.index(1)) and cells.present.sum() == 1


def test_the_first_of_equal_ones_is_kept():
    cells = encoded([[10, 10, 20, 30], [10, 10, 30, 20], [10, 10, 20, 30]], [0, 1, 2], [False, True, True])
    assert (cells.lost, cells.labels.max(), cells.index.max()) == (1, 1, 1)


def test_padding_is_nobodys(rng):
    """Whatever stands in rows that are no object, NaN too, changes nothing and is not counted as lost."""
    boxes, labels = some_objects(rng, 6)
    valid = np.array([True, True, False, True, False, False])
    junk = np.where(valid[:, None], boxes, np.float32(np.nan))
    for one, other in zip(encoded(boxes, labels, valid), encoded(junk, np.where(valid, labels, 9), valid)):
        np.testing.assert_array_equal(one, other)
    none = encoded(junk, labels, np.zeros(6, bool))
    assert none.lost == 0 and not any(np.any(field) for field in none)


def test_jit_and_vmap(rng):
    boxes, labels = (np.stack(parts) for parts in zip(*(some_objects(rng, 5) for _ in range(3))))
    valid = rng.uniform(size=(3, 5)) < 0.7
    many = jax.jit(jax.vmap(functools.partial(encode_cells, grid=4, size=SIZE)))
    cells = jax.device_get(many(jnp.asarray(boxes), jnp.asarray(labels), jnp.asarray(valid)))
    for i in range(3):
        one = encoded(boxes[i], labels[i], valid[i], grid=4)
        for field, expected in zip(cells, one):
            np.testing.assert_allclose(field[i], expected, atol=1e-6)
    assert cells.lost.shape == (3,)


def test_decoding_a_cell_by_hand():
    """Cell (2, 1) of four in an image of 80 x 40: corner (40, 10), 20 x 10 pixels each."""
    box = decode_cells(jnp.array([0.5, 0.25, 0.1, 0.5]), jnp.array([2, 1]), grid=4, size=(40, 80))
    np.testing.assert_allclose(box, [50 - 4, 12.5 - 10, 50 + 4, 12.5 + 10], atol=1e-5)


def test_a_grid_has_cells():
    assert cell_places(2).tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    with pytest.raises(ValueError, match="grid is 0; it must have at least one cell"):
        cell_places(0)
