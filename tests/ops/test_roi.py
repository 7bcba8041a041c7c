import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.test_util import check_grads

from segjax.ops import roi
from tests import oracles_roi as oracles

SCALE = 0.25
H, W, C = 9, 12, 3
STRIDES = (4, 8, 16, 32)
# Side by side in one array, so that one compilation serves them all.
BOXES = np.array(
    [
        [3, 2, 41, 30],  # inside
        [0, 0, 48, 36],  # the whole map
        [-13, -9, 20, 17],  # partly outside, negative corner
        [30, 20, 70, 61],  # partly outside, far corner
        [-200, -200, -100, -150],  # wholly outside
        [100, 10, 160, 20],
        [-120, -90, 150, 140],  # larger than the map
        [0, 0, 0, 0],  # empty: padding
        [10, 10, 10, 30],
        [30, 25, 20, 12],  # inverted
        [17, 14, 19, 15],  # inside one cell
        [-2, -2, 2, 2],  # halves: -0.5 and 0.5 cells
        [6, 10, 26, 30],
        [-4, -4, 52, 40],  # samples just outside the border
    ],
    np.float32,
)


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(H, W, C)).astype(np.float32)


@pytest.fixture(scope="module")
def pyramid() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.normal(size=(64 // s, 96 // s, 2)).astype(np.float32) for s in STRIDES]


def value(pool, features, boxes=BOXES, **options):
    """`pool` in one compiled function, which takes less time than compiling each of its operations."""
    return jax.jit(lambda f, b: pool(f, b, spatial_scale=SCALE, **options))(features, jnp.asarray(boxes))


def value_and_grad(pool, features, cotangent):
    """(pooled, gradient of the features)."""

    def run(features, cotangent):
        pooled, vjp = jax.vjp(pool, features)
        return pooled, vjp(cotangent)[0]

    return jax.jit(run)(jax.tree.map(jnp.asarray, features), jnp.asarray(cotangent))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(("size", "ratio"), [((3, 2), 2), ((2, 2), 1), ((1, 4), 3)])
def test_roi_align_is_the_mean_of_bilinear_samples(features, size, ratio, aligned):
    got = value(roi.roi_align, features, output_size=size, sampling_ratio=ratio, aligned=aligned)
    np.testing.assert_allclose(got, oracles.roi_align(features, BOXES, size, SCALE, ratio, aligned), atol=1e-5)


def test_roi_align_gradient_is_the_transpose_of_its_value(features, rng):
    # RoIAlign is linear in the features: the gradient is fixed by <cotangent, pool(f)> = <gradient, f> for all f.
    size = (2, 3)
    cotangent = rng.normal(size=(len(BOXES), *size, 1)).astype(np.float32)
    _, got = value_and_grad(
        lambda f: roi.roi_align(f, jnp.asarray(BOXES), output_size=size, spatial_scale=SCALE),
        features[..., :1],
        cotangent,
    )
    units = np.eye(H * W).reshape(H, W, H * W)
    want = np.einsum("npqk,npq->k", oracles.roi_align(units, BOXES, size, SCALE), cotangent[..., 0])
    np.testing.assert_allclose(got[..., 0], want.reshape(H, W), atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 10_000])
def test_gradients_do_not_depend_on_how_boxes_are_chunked(features, rng, monkeypatch, chunk):
    def gradients():
        return [
            value_and_grad(lambda f, pool=pool: pool(f, jnp.asarray(BOXES)), features, cotangent)[1]
            for pool in (
                lambda f, b: roi.roi_align(f, b, output_size=2, spatial_scale=SCALE),
                lambda f, b: roi.roi_pool(f, b, output_size=2, spatial_scale=SCALE),
            )
        ]

    cotangent = rng.normal(size=(len(BOXES), 2, 2, C)).astype(np.float32)
    want = gradients()
    # 10 000 bytes: several boxes a chunk, the last chunk cut short.
    monkeypatch.setitem(roi.CHUNK_BYTES, "cpu", chunk)
    for ours, whole in zip(gradients(), want):
        np.testing.assert_allclose(ours, whole, atol=1e-5)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("size", [(3, 2), (1, 1), (4, 5)])
def test_roi_pool_is_the_first_largest_cell_of_each_bin(features, rng, size, ties):
    values = np.round(features) if ties else features
    cotangent = rng.normal(size=(len(BOXES), *size, C)).astype(np.float32)
    got = value_and_grad(
        lambda f: roi.roi_pool(f, jnp.asarray(BOXES), output_size=size, spatial_scale=SCALE), values, cotangent
    )
    want = oracles.roi_pool(values, BOXES, size, SCALE, cotangent)
    np.testing.assert_array_equal(got[0], want[0].astype(np.float32))
    np.testing.assert_allclose(got[1], want[1], atol=1e-5)
    without = value(roi.roi_pool, values, output_size=size)
    np.testing.assert_array_equal(without, got[0], err_msg="the value differs where no gradient is asked for")


@pytest.mark.parametrize("bins", [1, 3, 7, 14])
def test_bins_have_the_edges_of_exact_division(bins):
    # bins * (length / bins) is rounded: where that is above length, torchvision's last bin takes one more cell.
    length = np.arange(1, 300, dtype=np.float32)
    got = jax.jit(lambda start, end: roi._bins(start, end, 10_000, bins))(np.zeros_like(length), length - 1)
    step = (length / np.float32(bins))[:, None]
    at = np.arange(bins, dtype=np.float32)
    np.testing.assert_array_equal(got[..., 0], np.floor(at * step))
    np.testing.assert_array_equal(got[..., 1], np.ceil((at + 1) * step))


def test_gradients_agree_with_finite_differences(features):
    options = {"output_size": 2, "spatial_scale": SCALE}
    boxes = jnp.asarray(BOXES)
    check_grads(jax.jit(lambda f: roi.roi_align(f, boxes, **options)), (features,), order=1, modes=["rev"], rtol=2e-2)
    # Features a fixed distance apart, so that no difference step changes which is largest.
    apart = np.random.default_rng(0).permutation(H * W * C).reshape(H, W, C).astype(np.float32)
    check_grads(
        jax.jit(lambda f: roi.roi_pool(f, boxes, **options)),
        (apart,),
        order=1,
        modes=["rev"],
        atol=0.1,
        rtol=2e-2,
        eps=0.1,
    )


@pytest.mark.parametrize("pool", [roi.roi_align, roi.roi_pool])
def test_boxes_get_no_gradient(features, pool):
    total = lambda b, f: pool(f, b, output_size=2, spatial_scale=SCALE).sum()  # noqa: E731
    gradient = jax.jit(jax.grad(total))(jnp.asarray(BOXES), features)
    np.testing.assert_array_equal(gradient, np.zeros_like(BOXES))


@pytest.mark.parametrize(("side", "want"), [(0, 0), (111.99, 0), (112, 1), (223.99, 1), (224, 2), (448, 3), (9000, 3)])
def test_a_side_of_112_224_448_starts_a_level(side, want):
    box = jnp.array([[8.0, 16.0, 8.0 + side, 16.0 + side]])
    assert int(jax.jit(lambda b: roi.box_levels(b, strides=STRIDES))(box)[0]) == want


def test_levels_follow_the_area(rng):
    corner, size = rng.uniform(-50, 500, (200, 2)), np.exp(rng.uniform(1, 7, (200, 2)))
    boxes = np.concatenate([corner, corner + size], 1).astype(np.float32)
    got = roi.box_levels(jnp.asarray(boxes), strides=(8, 16, 32), canonical_size=200, canonical_level=4)
    np.testing.assert_array_equal(got, [oracles.level(b, (8, 16, 32), 200, 4) for b in boxes.astype(float)])


def test_multilevel_pools_each_box_on_its_level(pyramid, rng):
    boxes = np.array([[4, 4, 60, 40], [0, 0, 120, 130], [-100, -80, 150, 160], [-300, -200, 300, 400]], np.float32)
    assert [oracles.level(b, STRIDES) for b in boxes] == [0, 1, 2, 3]
    cotangent = rng.normal(size=(4, 2, 2, 2)).astype(np.float32)
    valid = jnp.array([True, True, False, True])
    pooled, gradients = value_and_grad(
        lambda f: roi.multilevel_roi_align(f, jnp.asarray(boxes), output_size=2, strides=STRIDES, valid=valid),
        pyramid,
        cotangent,
    )
    for i, stride in enumerate(STRIDES):
        want = oracles.roi_align(pyramid[i], boxes[i : i + 1], (2, 2), 1 / stride) * bool(valid[i])
        np.testing.assert_allclose(pooled[i : i + 1], want, atol=1e-5)
        # Linear: <gradient of a level, its features> = <cotangent, what was pooled there>.
        np.testing.assert_allclose(np.vdot(gradients[i], pyramid[i]), np.vdot(cotangent[i], want), atol=1e-4)


def test_padding_gives_finite_values_and_no_gradient(features, pyramid):
    boxes, cotangent = np.zeros((5, 4), np.float32), np.ones((5, 2, 2, 2), np.float32)
    anything = np.concatenate([boxes[:2], [[np.nan] * 4, [np.inf] * 4, [-1e30] * 4]]).astype(np.float32)
    pooled, gradients = value_and_grad(
        lambda f: roi.multilevel_roi_align(
            f, jnp.asarray(anything), output_size=2, strides=STRIDES, valid=jnp.zeros(5, bool)
        ),
        pyramid,
        cotangent,
    )
    np.testing.assert_array_equal(pooled, np.zeros_like(cotangent))
    assert not any(np.any(g) for g in gradients)
    for pool in (roi.roi_align, roi.roi_pool):
        pooled, gradient = value_and_grad(
            lambda f, pool=pool: pool(f, jnp.asarray(boxes), output_size=2, spatial_scale=SCALE),
            features,
            np.zeros((5, 2, 2, C), np.float32),
        )
        assert np.isfinite(pooled).all()
        np.testing.assert_array_equal(gradient, np.zeros_like(features))


@pytest.mark.parametrize("pool", [roi.roi_align, roi.roi_pool])
def test_vmap_pools_each_image_on_its_own(features, rng, pool):
    images = np.stack([features, features[::-1]])
    boxes = np.stack([BOXES, BOXES[::-1]])
    cotangent = rng.normal(size=(2, len(BOXES), 2, 2, C)).astype(np.float32)
    one = lambda f, b: pool(f, b, output_size=2, spatial_scale=SCALE)  # noqa: E731
    got = value_and_grad(lambda f: jax.vmap(one)(f, jnp.asarray(boxes)), images, cotangent)
    for i in range(2):
        want = value_and_grad(lambda f, i=i: one(f, jnp.asarray(boxes[i])), images[i], cotangent[i])
        np.testing.assert_allclose(got[0][i], want[0], atol=1e-6)
        np.testing.assert_allclose(got[1][i], want[1], atol=1e-5)


@pytest.mark.parametrize("pool", [roi.roi_align, roi.roi_pool])
def test_bfloat16_features_are_summed_in_float32(features, rng, pool):
    low = jnp.asarray(features, jnp.bfloat16)
    cotangent = jnp.asarray(rng.normal(size=(len(BOXES), 2, 2, C)), jnp.bfloat16)
    run = lambda f: pool(f, jnp.asarray(BOXES), output_size=2, spatial_scale=SCALE)  # noqa: E731
    got = value_and_grad(run, low, cotangent)
    want = value_and_grad(run, low.astype(jnp.float32), cotangent.astype(jnp.float32))
    for ours, exact in zip(got, want):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_array_equal(ours, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("pool", [roi.roi_align, roi.roi_pool])
def test_no_boxes(features, pool):
    boxes = np.zeros((0, 4), np.float32)
    pooled, gradient = value_and_grad(
        lambda f: pool(f, jnp.asarray(boxes), output_size=2, spatial_scale=SCALE),
        features,
        np.zeros((0, 2, 2, C), np.float32),
    )
    assert pooled.shape == (0, 2, 2, C)
    assert not np.any(gradient)


def test_repeated_runs_give_equal_bits(rng):
    features = rng.normal(size=(30, 40, 16)).astype(np.float32)
    corner = rng.uniform(-10, 100, (64, 2))
    boxes = jnp.asarray(np.concatenate([corner, corner + rng.uniform(0, 60, (64, 2))], 1), jnp.float32)

    @jax.jit
    def gradients(features):
        pools = (roi.roi_align, roi.roi_pool)
        return [
            jax.grad(lambda f, p=p: jnp.square(p(f, boxes, output_size=7, spatial_scale=SCALE)).sum())(features)
            for p in pools
        ]

    hashes = {hashlib.sha256(np.stack(gradients(features)).tobytes()).hexdigest() for _ in range(5)}
    assert len(hashes) == 1


def test_lowers_for_every_platform_from_one_trace(pyramid):
    @jax.jit
    def gradients(pyramid, boxes):
        align = lambda f: roi.multilevel_roi_align(f, boxes, output_size=7, strides=STRIDES).sum()  # noqa: E731
        pool = lambda f: roi.roi_pool(f, boxes, output_size=7, spatial_scale=SCALE).sum()  # noqa: E731
        return jax.grad(align)(pyramid), jax.grad(pool)(pyramid[0])

    exported = export.export(gradients, platforms=["cpu", "cuda", "tpu"])(pyramid, BOXES)
    ours = jax.tree.leaves(exported.call(pyramid, BOXES))
    for got, want in zip(ours, jax.tree.leaves(gradients(pyramid, BOXES))):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("ratio", [0, -1])
def test_an_adaptive_grid_is_refused(features, ratio):
    with pytest.raises(ValueError, match=f"sampling_ratio must be 1 or more, not {ratio}"):
        value(roi.roi_align, features, output_size=7, sampling_ratio=ratio)


def test_bad_sizes_and_strides_are_refused(features, pyramid):
    with pytest.raises(ValueError, match="output_size must be one or two numbers of bins"):
        value(roi.roi_pool, features, output_size=(7, 0))
    with pytest.raises(ValueError, match="4 maps, but strides=\\(4, 8\\)"):
        roi.multilevel_roi_align([jnp.asarray(f) for f in pyramid], jnp.asarray(BOXES), output_size=7, strides=(4, 8))
    with pytest.raises(ValueError, match="powers of two that double"):
        roi.multilevel_roi_align(
            [jnp.asarray(f) for f in pyramid], jnp.asarray(BOXES), output_size=7, strides=(4, 8, 16, 64)
        )
