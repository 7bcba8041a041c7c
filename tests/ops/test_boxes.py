import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from segjax.ops import boxes as box_ops
from tests import oracles

MEASURES = ("intersection", "iou", "giou", "diou")
PAIRS = [("xyxy_to_cxcywh", "cxcywh_to_xyxy"), ("xyxy_to_xywh", "xywh_to_xyxy")]


def jitted(function):
    """`function` as `check_grads` needs it, which passes NumPy arrays."""
    compiled = jax.jit(function)
    return lambda *args: compiled(*map(jnp.asarray, args))


def random_boxes(rng, *shape):
    corner = rng.uniform(-100, 100, (*shape, 2))
    return np.concatenate([corner, corner + rng.uniform(1, 80, (*shape, 2))], axis=-1).astype(np.float32)


@pytest.fixture
def awkward(rng):
    """Ordinary boxes, a duplicate, a point twice, a line, and a box at negative coordinates."""
    special = [[-50, -40, -10, -5], [3, 3, 3, 3], [3, 3, 3, 3], [0, 5, 20, 5]]
    boxes = random_boxes(rng, 6)
    return np.concatenate([boxes, boxes[:1], np.array(special, np.float32)])


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("name", MEASURES)
def test_measures_equal_the_loops(name, jit, awkward, rng):
    function = getattr(box_ops, name)
    others = np.concatenate([random_boxes(rng, 4), awkward[-3:]])
    found = (jax.jit(function) if jit else function)(jnp.asarray(awkward), jnp.asarray(others))
    expected = oracles.pairwise(getattr(oracles, name), awkward, others)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MEASURES)
def test_measures_take_leading_axes_and_vmap(name, rng):
    function = getattr(box_ops, name)
    boxes1, boxes2 = jnp.asarray(random_boxes(rng, 2, 3, 5)), jnp.asarray(random_boxes(rng, 2, 3, 4))
    free = jax.jit(function)(boxes1, boxes2)
    chex.assert_shape(free, (2, 3, 5, 4))
    np.testing.assert_allclose(free, jax.jit(jax.vmap(jax.vmap(function)))(boxes1, boxes2), rtol=1e-6)
    np.testing.assert_allclose(free[1, 2], jax.jit(function)(boxes1[1, 2], boxes2[1, 2]), rtol=1e-6)


@pytest.mark.parametrize("name", MEASURES)
def test_gradients_of_measures(name, rng):
    # Far from the corners of max and min, where the numerical slope means something.
    boxes1 = jnp.array([[0.0, 0, 10, 12], [30, 30, 42, 50]])
    boxes2 = jnp.array([[3.0, 4, 15, 9], [33, 25, 40, 60], [100, 100, 120, 130]])
    check_grads(jitted(getattr(box_ops, name)), (boxes1, boxes2), order=1, modes=["rev"], eps=1e-2, rtol=2e-2)


@pytest.mark.parametrize("name", MEASURES)
def test_boxes_without_area_are_finite_in_value_and_gradient(name, awkward):
    function = jax.jit(getattr(box_ops, name))
    slopes = jax.jit(jax.value_and_grad(lambda a, b: function(a, b).sum(), argnums=(0, 1)))
    for boxes in (jnp.zeros((11, 4)), jnp.asarray(awkward)):
        value, gradients = slopes(boxes, boxes)
        chex.assert_tree_all_finite((value, gradients))
    assert (function(jnp.zeros((11, 4)), jnp.zeros((11, 4))) == 0).all()


def test_bfloat16_is_cast_up(rng):
    boxes = jnp.asarray(random_boxes(rng, 6), jnp.bfloat16)
    for name in MEASURES:
        function = jax.jit(getattr(box_ops, name))
        found = function(boxes, boxes)
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, function(*[boxes.astype(jnp.float32)] * 2))


def test_area_of_an_inverted_box_is_zero():
    found = box_ops.area(jnp.array([[0.0, 0, 4, 5], [4, 0, 0, 5], [4, 5, 0, 0], [-4, -5, -1, -1]]))
    np.testing.assert_array_equal(found, [20, 0, 0, 12])


def test_clip_to_one_size_and_to_the_size_of_each_image():
    boxes = jnp.array([[-5.0, -6, 50, 60], [10, 90, 200, 300]])
    expected = np.array([[0, 0, 50, 60], [10, 90, 120, 100]])
    np.testing.assert_array_equal(box_ops.clip(boxes, (100, 120)), expected)
    np.testing.assert_array_equal(jax.jit(box_ops.clip)(boxes, jnp.array([100, 120])), expected)
    batch = jnp.stack([boxes, boxes])
    np.testing.assert_array_equal(box_ops.clip(batch, jnp.array([100, 120])), [expected, expected])
    found = box_ops.clip(batch, jnp.array([[100, 120], [20, 10]]))
    np.testing.assert_array_equal(found, [expected, [[0, 0, 10, 20], [10, 20, 10, 20]]])


@pytest.mark.parametrize(("there", "back"), PAIRS)
def test_formats_by_hand_and_back(there, back, rng):
    boxes = jnp.asarray(random_boxes(rng, 2, 5))
    np.testing.assert_allclose(getattr(box_ops, back)(getattr(box_ops, there)(boxes)), boxes, atol=1e-4)
    by_hand = {"xyxy_to_cxcywh": [6, 9, 8, 10], "xyxy_to_xywh": [2, 4, 8, 10]}
    np.testing.assert_array_equal(getattr(box_ops, there)(jnp.array([2.0, 4, 10, 14])), by_hand[there])


def test_flip_twice_is_the_identity():
    boxes = jnp.array([[2.0, 3, 10, 14], [0, 0, 100, 5]])
    flipped = box_ops.flip_horizontal(boxes, 100)
    np.testing.assert_array_equal(flipped, [[90, 3, 98, 14], [0, 0, 100, 5]])
    np.testing.assert_array_equal(jax.jit(box_ops.flip_horizontal)(flipped, jnp.int32(100)), boxes)


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)])
def test_encode_equals_the_loop_and_decode_inverts_it(weights, rng):
    boxes, anchors = random_boxes(rng, 7), random_boxes(rng, 7)
    deltas = jax.jit(functools.partial(box_ops.encode, weights=weights))(jnp.asarray(boxes), jnp.asarray(anchors))
    expected = [oracles.encode(b, a, weights) for b, a in zip(boxes.astype(float), anchors.astype(float), strict=True)]
    np.testing.assert_allclose(deltas, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(box_ops.decode(deltas, jnp.asarray(anchors), weights=weights), boxes, atol=1e-3)


def test_encode_and_decode_gradients(rng):
    boxes, anchors = jnp.asarray(random_boxes(rng, 4)), jnp.asarray(random_boxes(rng, 4))
    for function in (box_ops.encode, box_ops.decode):
        first = boxes if function is box_ops.encode else box_ops.encode(boxes, anchors)
        check_grads(jitted(function), (first, anchors), order=1, modes=["rev"], eps=1e-2, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("function", [box_ops.encode, box_ops.decode])
def test_empty_anchors_are_finite_in_value_and_gradient(function):
    point, line, box = [5.0, 5, 5, 5], [5.0, 5, 5, 9], [1.0, 2, 8, 9]
    first, anchors = jnp.array([box, box, point, line, [0.0] * 4]), jnp.array([point, line, box, box, [0.0] * 4])
    slopes = jax.jit(jax.value_and_grad(lambda a, b: function(a, b).sum(), argnums=(0, 1)))
    value, gradients = slopes(first, anchors)
    chex.assert_tree_all_finite((value, gradients))


def test_decode_clamps_growth_and_leaves_an_empty_anchor_empty():
    anchors = jnp.array([[0.0, 0, 16, 16], [5, 5, 5, 5]])
    found = box_ops.decode(jnp.full((2, 4), 50.0).at[:, :2].set(0), anchors)
    np.testing.assert_allclose(found, [[-492, -492, 508, 508], [5, 5, 5, 5]], rtol=1e-5)
