import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from segjax.ops import nms as nms_ops
from tests import oracles

THRESHOLDS = np.arange(0.05, 0.96, 0.05).round(2)
# The threshold is traced: one program serves all of them.
plain = jax.jit(nms_ops.nms, static_argnames=("max_output", "sorted"))
batched = jax.jit(nms_ops.batched_nms, static_argnames=("max_output", "sorted"))


def crowd(rng, n, spread=60):
    """Overlapping boxes on both sides of the origin, with duplicates, points and tied scores."""
    corner = rng.uniform(-spread, spread, (n, 2)).round()
    boxes = np.concatenate([corner, corner + rng.uniform(5, 50, (n, 2)).round()], axis=1).astype(np.float32)
    boxes[: n // 10] = boxes[n // 2 : n // 2 + n // 10]
    boxes[-2:, 2:] = boxes[-2:, :2]
    return boxes, rng.uniform(size=n).round(1).astype(np.float32)


def as_mask(kept, n):
    mask = np.zeros(n, bool)
    mask[kept] = True
    return mask


@pytest.mark.parametrize("n", [300, 600])
def test_equals_greedy_at_every_threshold(n, rng):
    boxes, scores = crowd(rng, n)
    labels = rng.integers(-2, 3, n).astype(np.int32)
    args = jnp.asarray(boxes), jnp.asarray(scores)
    for t in THRESHOLDS:
        threshold = jnp.float32(t)
        np.testing.assert_array_equal(
            plain(*args, iou_threshold=threshold), as_mask(oracles.nms(boxes, scores, t), n), err_msg=f"threshold {t}"
        )
        np.testing.assert_array_equal(
            batched(*args, jnp.asarray(labels), iou_threshold=threshold),
            as_mask(oracles.nms(boxes, scores, t, labels), n),
            err_msg=f"threshold {t}, by label",
        )


@pytest.mark.parametrize("n", [1, 2, 31, 33, 256, 257])
def test_sizes_around_words_and_blocks(n, rng):
    boxes, scores = crowd(rng, n)
    found = nms_ops.nms(jnp.asarray(boxes), jnp.asarray(scores), iou_threshold=0.4)
    np.testing.assert_array_equal(found, as_mask(oracles.nms(boxes, scores, 0.4), n))


def test_a_chain_as_long_as_a_block():
    """Each box suppresses only the next one, so every second stays: the worst case of the fixed point."""
    x = np.arange(300, dtype=np.float32) * 4
    boxes = jnp.asarray(np.stack([x, 0 * x, x + 10, 0 * x + 10], axis=1))
    found = plain(boxes, jnp.arange(300, 0, -1, dtype=jnp.float32), iou_threshold=0.4)
    np.testing.assert_array_equal(found, np.arange(300) % 2 == 0)


def test_suppression_needs_more_than_the_threshold_and_the_lower_index_wins_ties():
    boxes = jnp.array([[0.0, 0, 2, 2], [0, 0, 2, 1], [0, 0, 2, 2]])
    scores = jnp.array([0.5, 0.5, 0.5])
    np.testing.assert_array_equal(nms_ops.nms(boxes, scores, iou_threshold=0.5), [True, True, False])
    np.testing.assert_array_equal(nms_ops.nms(boxes, scores, iou_threshold=0.49), [True, False, False])


def test_negative_coordinates_change_nothing(rng):
    boxes, scores = crowd(rng, 300)
    expected = plain(jnp.asarray(boxes), jnp.asarray(scores), iou_threshold=jnp.float32(0.3))
    shifted = plain(jnp.asarray(boxes - 1000), jnp.asarray(scores), iou_threshold=jnp.float32(0.3))
    np.testing.assert_array_equal(shifted, expected)


def test_invalid_rows_and_nan_scores_are_not_kept_and_do_not_suppress(rng):
    boxes, scores = crowd(rng, 300)
    labels = rng.integers(0, 3, 300).astype(np.int32)
    valid = rng.uniform(size=300) < 0.7
    with_nan = np.where(rng.uniform(size=300) < 0.2, np.nan, scores).astype(np.float32)
    usable = valid & ~np.isnan(with_nan)
    args = {"iou_threshold": jnp.float32(0.3), "valid": jnp.asarray(valid)}
    found = plain(jnp.asarray(boxes), jnp.asarray(with_nan), **args)
    np.testing.assert_array_equal(found, as_mask(oracles.nms(boxes, scores, 0.3, valid=usable), 300))
    found = batched(jnp.asarray(boxes), jnp.asarray(with_nan), jnp.asarray(labels), **args)
    np.testing.assert_array_equal(found, as_mask(oracles.nms(boxes, scores, 0.3, labels, usable), 300))


def test_scores_without_bounds():
    boxes = jnp.array([[0.0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6]])
    for scores in ([-jnp.inf, 1.0, -jnp.inf], [-3.0, jnp.inf, -1e30]):
        np.testing.assert_array_equal(nms_ops.nms(boxes, jnp.array(scores), iou_threshold=0.5), [False, True, True])


@pytest.mark.parametrize("n", [0, 300])
def test_nothing_valid(n):
    boxes, scores, labels, valid = jnp.zeros((n, 4)), jnp.zeros(n), jnp.zeros(n, jnp.int32), jnp.zeros(n, bool)
    assert not nms_ops.nms(boxes, scores, iou_threshold=0.5, valid=valid).any()
    assert not nms_ops.batched_nms(boxes, scores, labels, iou_threshold=0.5, valid=valid).any()


@pytest.mark.parametrize("max_output", [1, 20, 300, 1000])
def test_max_output_is_the_head_of_the_full_answer(max_output, rng):
    boxes, scores = crowd(rng, 600)
    labels = rng.integers(0, 3, 600).astype(np.int32)
    options = {"iou_threshold": jnp.float32(0.6), "max_output": max_output}
    found = plain(jnp.asarray(boxes), jnp.asarray(scores), **options)
    np.testing.assert_array_equal(found, as_mask(oracles.nms(boxes, scores, 0.6)[:max_output], 600))
    found = batched(jnp.asarray(boxes), jnp.asarray(scores), jnp.asarray(labels), **options)
    np.testing.assert_array_equal(found, as_mask(oracles.nms(boxes, scores, 0.6, labels)[:max_output], 600))


def test_sorted_input_gives_the_same_answer(rng):
    boxes, scores = crowd(rng, 300)
    order = np.argsort(-scores, kind="stable")
    labels, valid = rng.integers(0, 3, 300).astype(np.int32), rng.uniform(size=300) < 0.7
    args = [jnp.asarray(x[order]) for x in (boxes, scores, labels)]
    options = {"iou_threshold": jnp.float32(0.5), "valid": jnp.asarray(valid[order]), "max_output": 40}
    np.testing.assert_array_equal(plain(*args[:2], **options, sorted=True), plain(*args[:2], **options))
    np.testing.assert_array_equal(batched(*args, **options, sorted=True), batched(*args, **options))


def test_vmap_and_bfloat16(rng):
    boxes, scores = (jnp.asarray(np.stack(x)) for x in zip(*[crowd(rng, 300, s) for s in (20, 60, 200)], strict=True))
    valid = jnp.arange(300)[None] < jnp.array([[300], [40], [0]])
    labels = jnp.asarray(rng.integers(0, 3, (3, 300)), jnp.int32)
    together = jax.jit(jax.vmap(lambda b, s, v: nms_ops.nms(b, s, iou_threshold=0.5, valid=v)))(boxes, scores, valid)
    by_label = jax.jit(jax.vmap(functools.partial(nms_ops.batched_nms, iou_threshold=0.5)))
    # Whole numbers below 256 and tenths that stay in order: nothing is lost in bfloat16.
    half = by_label(boxes.astype(jnp.bfloat16), scores.astype(jnp.bfloat16), labels)
    for i in range(3):
        b, s, v, k = (np.asarray(x[i]) for x in (boxes, scores, valid, labels))
        np.testing.assert_array_equal(together[i], as_mask(oracles.nms(b, s, 0.5, valid=v), 300))
        np.testing.assert_array_equal(half[i], as_mask(oracles.nms(b, s, 0.5, k), 300))


def test_no_gradient_flows_and_none_is_refused(rng):
    boxes, scores = map(jnp.asarray, crowd(rng, 40))
    total = jax.grad(lambda b, s: jnp.where(nms_ops.nms(b, s, iou_threshold=0.5), s, 0).sum(), argnums=(0, 1))
    to_boxes, to_scores = total(boxes, scores)
    np.testing.assert_array_equal(to_boxes, np.zeros((40, 4)))
    np.testing.assert_array_equal(to_scores, np.asarray(nms_ops.nms(boxes, scores, iou_threshold=0.5), np.float32))


def test_memory_does_not_grow_with_the_square():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((12_000, 4), (12_000,), ())]
    lowered = jax.jit(lambda b, s, t: nms_ops.nms(b, s, iou_threshold=t)).lower(*shapes)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < 4e6  # n * n booleans are 144e6


def test_top_detections_are_best_first_and_padded():
    scores, keep = jnp.array([0.2, 0.9, 0.5, 0.9, jnp.nan]), jnp.array([True, True, False, True, False])
    indices, valid = nms_ops.top_detections(scores, keep, count=7)
    np.testing.assert_array_equal(indices, [1, 3, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(valid, [True] * 3 + [False] * 4)
    indices, valid = nms_ops.top_detections(scores, keep, count=2)
    np.testing.assert_array_equal(indices, [1, 3])


def test_lowers_for_every_platform():
    def one(boxes, scores, labels):
        return nms_ops.batched_nms(boxes, scores, labels, iou_threshold=0.5, max_output=10)

    shapes = [
        jax.ShapeDtypeStruct(*s) for s in (((2, 300, 4), jnp.float32), ((2, 300), jnp.float32), ((2, 300), jnp.int32))
    ]
    exported = jax.export.export(jax.jit(jax.vmap(one)), platforms=("cpu", "cuda", "tpu"))(*shapes)
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="max_output=0"):
        nms_ops.nms(jnp.zeros((2, 4)), jnp.zeros(2), iou_threshold=0.5, max_output=0)
