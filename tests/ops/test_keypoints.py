import contextlib
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segjax.ops import keypoints
from tests import oracles_masks as oracles

CELLS, JOINTS, IMAGE = 8, 3, (120, 150)
# Side by side in one array, so that one compilation serves them all. Some take several tiles of pixels.
BOXES = np.array(
    [
        [3, 2, 40.5, 33.25],
        [10, 20, 140, 112.5],  # two by five tiles
        [0, 0, 150, 120],  # the whole image
        [20, 10, 52, 74],  # exactly a tile
        [5.5, 3, 9, 110],
        [-7.5, -4, 21, 16],  # negative corner
        [17, 14, 18, 15],  # one pixel
        [17.25, 14.5, 17.75, 14.9],  # less than one
        [0, 0, 0, 0],  # padding
        [10, 10, 10, 30],
        [30, 25, 20, 12],  # inverted
    ],
    np.float32,
)
ORDINARY = 8
PLATFORMS = ["cpu", "cuda", "tpu"]
decode = jax.jit(keypoints.decode_heatmaps, static_argnames="max_size")
oks = jax.jit(keypoints.oks, static_argnames="sigmas")


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(len(BOXES), CELLS, CELLS, JOINTS)).astype(np.float32)


def test_targets_are_cells_of_the_box(rng):
    boxes = np.concatenate([BOXES, BOXES[:3]])
    joints = np.concatenate([rng.uniform(-10, 150, (len(boxes), 9, 2)), rng.integers(0, 3, (len(boxes), 9, 1))], -1)
    # Corners, borders, and inside for certain.
    joints[:, 0, :2], joints[:, 1, :2] = boxes[:, :2], boxes[:, 2:]
    joints[:, 2, :2], joints[:, 3, :2] = boxes[:, [0, 3]], boxes[:, [2, 1]]
    joints[:, 4, :2] = (boxes[:, :2] + boxes[:, 2:]) / 2
    joints = joints.astype(np.float32)
    cell, valid = jax.jit(keypoints.heatmap_targets, static_argnames="size")(joints, boxes, size=7)
    want = [[oracles.heatmap_target(joint, box, 7) for joint in of_box] for of_box, box in zip(joints, boxes)]
    np.testing.assert_array_equal(cell, [[c for c, _ in of_box] for of_box in want])
    np.testing.assert_array_equal(valid, [[v for _, v in of_box] for of_box in want])
    assert 20 < valid.sum() < valid.size - 20


def test_far_borders_belong_to_the_last_cell():
    joints = jnp.array([[[10.0, 20, 2], [30, 60, 2], [30, 20, 1], [30.01, 20, 2], [9.99, 20, 2], [30, 60, 0]]])
    cell, valid = keypoints.heatmap_targets(joints, jnp.array([[10.0, 20, 30, 60]]), size=4)
    np.testing.assert_array_equal(cell, [[0, 15, 3, 0, 0, 0]])
    np.testing.assert_array_equal(valid, [[True, True, True, False, False, False]])


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="size must be 1 or more cells, not 0"):
        keypoints.heatmap_targets(jnp.zeros((1, 1, 3)), jnp.zeros((1, 4)), size=0)
    with pytest.raises(ValueError, match="max_size must be a height and width of 1 pixel or more, not \\(0, 4\\)"):
        keypoints.decode_heatmaps(jnp.zeros((1, 4, 4, 1)), jnp.zeros((1, 4)), max_size=(0, 4))


def test_joints_are_the_largest_pixels_of_the_resized_maps(maps):
    got = decode(maps, BOXES, max_size=IMAGE)
    for i in range(ORDINARY):
        for j in range(JOINTS):
            want, lead = oracles.decode_heatmap(maps[i, :, :, j], BOXES[i])
            np.testing.assert_allclose(got[i, j, 2], want[2], atol=1e-5)
            assert lead > 1e-5, "choose other maps: this one has two largest pixels"
            np.testing.assert_allclose(got[i, j, :2], want[:2], atol=1e-4, err_msg=str(BOXES[i]))


def test_boxes_without_area_give_zeros(maps):
    got = decode(maps, BOXES, max_size=IMAGE)
    np.testing.assert_array_equal(got[ORDINARY:], np.zeros((3, JOINTS, 3)))


def test_a_flat_map_gives_the_first_pixel(maps):
    got = decode(np.zeros_like(maps), BOXES, max_size=IMAGE)[:ORDINARY]
    side = np.maximum(BOXES[:ORDINARY, 2:] - BOXES[:ORDINARY, :2], 1)
    first = BOXES[:ORDINARY, :2] + 0.5 * side / np.ceil(side)
    np.testing.assert_allclose(got[..., :2], np.broadcast_to(first[:, None], (ORDINARY, JOINTS, 2)), rtol=1e-6)
    np.testing.assert_array_equal(got[..., 2], 0)


def test_of_equal_pixels_the_first_in_row_major_order_counts():
    """A box of as many pixels as the map has cells is the map itself, so that ties are exact, here across tiles."""
    size = 70
    maps = np.zeros((1, size, size, 3), np.float32)
    for joint, cells in enumerate([[(3, 50), (5, 2)], [(66, 1), (65, 40)], [(68, 69), (68, 33), (68, 34)]]):
        for row, column in cells:
            maps[0, row, column, joint] = 2.5
    got = decode(maps, np.array([[0, 0, size, size]], np.float32), max_size=IMAGE)
    np.testing.assert_array_equal(got[0], [[50.5, 3.5, 2.5], [40.5, 65.5, 2.5], [33.5, 68.5, 2.5]])


def test_a_box_larger_than_allowed_is_read_at_the_largest_size(maps):
    got = decode(maps[:1], np.array([[0, 0, 300, 360]], np.float32), max_size=IMAGE)
    small = decode(maps[:1], np.array([[0, 0, 150, 120]], np.float32), max_size=IMAGE)
    np.testing.assert_allclose(got, small * np.array([[[2, 3, 1]]], np.float32), rtol=1e-6)


def test_maps_below_zero_and_bfloat16(maps):
    low = jnp.asarray(maps - 100, jnp.bfloat16)
    got = decode(low, BOXES, max_size=IMAGE)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, decode(low.astype(jnp.float32), BOXES, max_size=IMAGE))
    assert (got[:ORDINARY, :, 2] < -90).all()


def test_vmap_and_many_boxes_at_once_give_what_one_at_a_time_gives(maps, monkeypatch):
    want = decode(maps, BOXES, max_size=IMAGE)
    one = lambda m, b: keypoints.decode_heatmaps(m, b, max_size=IMAGE)  # noqa: E731
    pairs = jnp.stack([maps, maps[::-1]]), jnp.stack([BOXES, BOXES[::-1]])
    for name in ("as on CPU", "as on accelerators"):
        got = jax.jit(jax.vmap(lambda m, b: one(m, b)))(*pairs)
        np.testing.assert_allclose(got[0], want, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(got[1], want[::-1], atol=1e-5, err_msg=name)
        monkeypatch.setattr(keypoints.jax.lax, "platform_dependent", lambda *given, cpu, default: default(*given))
        monkeypatch.setattr(keypoints, "BOXES", 4)


def test_no_boxes_and_no_joints():
    empty = keypoints.decode_heatmaps(jnp.zeros((0, 8, 8, 3)), jnp.zeros((0, 4)), max_size=IMAGE)
    assert empty.shape == (0, 3, 3)
    assert keypoints.decode_heatmaps(jnp.zeros((2, 8, 8, 0)), jnp.zeros((2, 4)), max_size=IMAGE).shape == (2, 0, 3)


def test_nothing_of_the_size_of_the_image_is_held():
    """100 boxes of 17 joints: a map of the image for one joint would be 4.3 MB, for all of them 7 GB."""
    shapes = jax.ShapeDtypeStruct((100, 56, 56, 17), jnp.float32), jax.ShapeDtypeStruct((100, 4), jnp.float32)
    compiled = decode.lower(*shapes, max_size=(800, 1344)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4e6


def test_lowers_for_every_platform_from_one_trace(maps):
    exported = export.export(jax.jit(lambda m, b: keypoints.decode_heatmaps(m, b, max_size=IMAGE)), platforms=PLATFORMS)
    got = exported(maps, BOXES).call(maps, BOXES)
    np.testing.assert_allclose(got, decode(maps, BOXES, max_size=IMAGE), atol=1e-6)


def coco_oks(predicted, truth, areas, boxes, sigmas):
    """[n, m] as COCO's evaluation computes it for one image."""
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "keypoints": t.ravel().tolist(), "area": float(a)}
        | {"bbox": b, "iscrowd": 0, "num_keypoints": int((t[:, 2] > 0).sum())}
        for i, (t, a, b) in enumerate(zip(truth, areas, boxes))
    ]
    results = [
        {"image_id": 1, "category_id": 1, "keypoints": p.ravel().tolist(), "score": 1 - i / 100}
        for i, p in enumerate(predicted)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": annotations}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation._prepare()
        return evaluation.computeOks(1, 1)


def test_oks_equals_coco(rng):
    sigmas = tuple(rng.uniform(0.03, 0.1, 5))
    truth = np.concatenate([rng.uniform(0, 50, (4, 5, 2)), rng.integers(0, 3, (4, 5, 1))], -1).astype(np.float32)
    truth[0, :, 2], truth[1, :, 2] = 2, [0, 0, 1, 0, 0]
    predicted = np.concatenate([truth[[0, 1, 2, 3, 0]] + rng.normal(0, 3, (5, 5, 3)), truth[:1]]).astype(np.float32)
    areas = np.array([900, 400, 2500, 1600], np.float32)
    want = coco_oks(predicted, truth, areas, [[0, 0, 40, 40]] * 4, sigmas)
    got = oks(jnp.asarray(predicted), jnp.asarray(truth), jnp.asarray(areas), sigmas=sigmas)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert want.max() == 1 and 0 < want.min() < 0.5
    places = jnp.asarray(predicted[..., :2])
    np.testing.assert_array_equal(oks(places, jnp.asarray(truth), jnp.asarray(areas), sigmas=sigmas), got)


def test_oks_of_padding_is_zero_and_finite():
    truth = jnp.zeros((2, 4, 3)).at[1, :, 2].set(2)
    one = lambda p: oks(p, truth, jnp.zeros(2), sigmas=(0.1,) * 4)  # noqa: E731
    predicted = jnp.stack([jnp.zeros((4, 2)), jnp.full((4, 2), 5.0)])
    # Nothing labelled: 0. Labelled, without area: 1 in place, 0 elsewhere.
    np.testing.assert_array_equal(one(predicted), [[0, 1], [0, 0]])
    assert np.isfinite(jax.jit(jax.grad(lambda p: one(p).sum()))(predicted)).all()


def test_oks_takes_leading_axes(rng):
    predicted, truth = jnp.asarray(rng.random((2, 3, 4, 3))), jnp.asarray(rng.random((2, 5, 4, 3)))
    areas = jnp.asarray(rng.random((2, 5)))
    got = oks(predicted, truth, areas, sigmas=(0.5,) * 4)
    assert got.shape == (2, 3, 5)
    np.testing.assert_allclose(got[1], oks(predicted[1], truth[1], areas[1], sigmas=(0.5,) * 4), rtol=1e-6)


@pytest.mark.parametrize("sigmas", [(0.1, 0.1), (0.1, 0.0, 0.1)])
def test_sigmas_that_do_not_fit_are_refused(sigmas):
    with pytest.raises(ValueError, match="sigmas must be 3 positive numbers, one a joint"):
        keypoints.oks(jnp.zeros((1, 3, 2)), jnp.zeros((1, 3, 3)), jnp.zeros(1), sigmas=sigmas)
