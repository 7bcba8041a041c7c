import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from pycocotools import mask as coco_mask

from segjax.ops import masks
from tests import oracles_masks as oracles

H, W, SIZE = 70, 45, 5
# Side by side in one array, so that one compilation serves them all. The image has more rows than a band.
BOXES = np.array(
    [
        [3, 2, 41, 30],
        [0, 0, 45, 70],  # the whole image
        [-13, -9, 20, 17],  # partly outside, negative corner
        [30, 40, 60, 91],  # partly outside, far corner
        [-200, -200, -100, -150],  # wholly outside
        [100, 10, 160, 20],
        [-40, -50, 90, 140],  # larger than the image
        [0, 0, 0, 0],  # padding
        [10, 10, 10, 30],
        [30, 25, 20, 12],  # inverted
        [17, 14, 18, 15],  # one pixel
        [17.25, 14.5, 17.75, 15],  # less than one
        [4, 5, 9, 10],  # a pixel a bin
        [4, 5, 9.5, 15.5],  # just more than one and two
        [-1.5, -1.5, 3.5, 3.5],  # samples around the border
        [40, 63.5, 46.5, 71.5],
    ],
    np.float32,
)
crop = jax.jit(masks.crop_targets, static_argnames="size")
paste = jax.jit(masks.paste, static_argnames="size")


@pytest.fixture(scope="module")
def objects() -> np.ndarray:
    """Blobs of pixels, an empty mask and a full one."""
    rng = np.random.default_rng(1)
    drawn = (rng.random((4, H // 3 + 1, W // 3)) > 0.5).repeat(3, 1).repeat(3, 2)[:, :H]
    drawn[2], drawn[3] = False, True
    return drawn


@pytest.mark.parametrize("width", [1, 7, 8, 9, 45])
@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_packing_is_that_of_numpy_and_is_undone(rng, width, dtype):
    drawn = (rng.random((2, 3, 6, width)) > 0.5).astype(dtype)
    packed = masks.pack(drawn)
    assert isinstance(packed, np.ndarray)
    np.testing.assert_array_equal(packed, np.packbits(drawn, axis=-1))
    np.testing.assert_array_equal(masks.pack(jnp.asarray(drawn)), packed)
    for one in (packed, jnp.asarray(packed)):
        back = masks.unpack(one, width)
        assert isinstance(back, type(one)) and back.dtype == bool
        np.testing.assert_array_equal(back, drawn.astype(bool))


def test_the_leftmost_pixel_is_the_highest_bit():
    np.testing.assert_array_equal(masks.pack(np.eye(1, 10, dtype=bool)), [[128, 0]])


@pytest.mark.parametrize("width", [40, 49])
def test_a_width_that_is_not_that_of_the_masks_is_refused(width):
    packed = masks.pack(np.zeros((2, H, W), bool))
    message = f"Rows of width={width} pixels take {-(-width // 8)} bytes, the masks have 6"
    with pytest.raises(ValueError, match=message):
        masks.unpack(packed, width)
    with pytest.raises(ValueError, match=message):
        masks.crop_targets(jnp.asarray(packed), jnp.zeros(1, int), jnp.zeros((1, 4)), width=width)


def test_a_target_without_bins_is_refused():
    with pytest.raises(ValueError, match="size must be 1 or more bins, not 0"):
        masks.crop_targets(jnp.zeros((1, 4, 1), jnp.uint8), jnp.zeros(1, int), jnp.zeros((1, 4)), size=0, width=8)


def test_targets_are_roi_align_with_a_sample_a_pixel(objects):
    target = np.arange(len(BOXES), dtype=np.int32) % 2
    got = crop(masks.pack(objects), target, BOXES, size=SIZE, width=W)
    want = [oracles.crop_target(objects[t], box, SIZE) for t, box in zip(target, BOXES)]
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.ptp(got[:4]) > 0.9


def test_targets_of_an_empty_and_of_a_full_mask(objects):
    packed = masks.pack(objects)
    assert not crop(packed, np.full(len(BOXES), 2, np.int32), BOXES, size=SIZE, width=W).any()
    full = crop(packed, np.full(len(BOXES), 3, np.int32), BOXES, size=SIZE, width=W)
    inside = (BOXES[:, :2] >= 0).all(1) & (BOXES[:, 2:] <= [W, H]).all(1)
    np.testing.assert_allclose(full[inside], 1, atol=1e-6)


def test_a_box_on_whole_cells_gives_the_pixels_between_their_centres():
    """Without half-pixel shifts a sample in the middle of pixel i lies between pixels i and i + 1, as torchvision's."""
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 4:] = True
    target = crop(masks.pack(mask), np.zeros(1, np.int32), np.array([[0, 0, 8, 8]], np.float32), size=8, width=8)
    np.testing.assert_allclose(target[0, :, 0], [0, 0, 0, 0.5, 1, 1, 1, 1], atol=1e-6)


def test_padding_around_an_image_does_not_show(objects):
    """Samples past the edge of the image take the edge, not the padding behind it."""
    target = np.full(len(BOXES), 3, np.int32)
    padded = masks.pack(np.pad(objects, [(0, 0), (0, 20), (0, 11)]))
    got = crop(padded, target, BOXES, size=SIZE, height=H, width=W)
    np.testing.assert_allclose(got, crop(masks.pack(objects), target, BOXES, size=SIZE, width=W), atol=1e-6)
    assert np.abs(got - crop(padded, target, BOXES, size=SIZE, width=W + 11)).max() > 0.01


def test_vmap_crops_each_image_on_its_own_and_gives_no_gradient(objects):
    packed = jnp.stack([masks.pack(jnp.asarray(objects)), masks.pack(jnp.asarray(~objects))])
    target = jnp.zeros((2, len(BOXES)), jnp.int32)
    boxes = jnp.stack([jnp.asarray(BOXES), jnp.asarray(BOXES[::-1])])

    def total(boxes):
        found = jax.vmap(lambda *a: masks.crop_targets(*a, size=SIZE, width=W))(packed, target, boxes)
        return found.sum(), found

    gradient, found = jax.jit(jax.grad(total, has_aux=True))(boxes)
    assert not gradient.any()
    for i in range(2):
        np.testing.assert_allclose(found[i], crop(packed[i], target[i], boxes[i], size=SIZE, width=W), atol=1e-6)


@pytest.mark.parametrize("shape", [(0, H, 6), (2, 0, 6)])
def test_no_objects_and_no_regions(shape):
    packed = jnp.zeros(shape, jnp.uint8)
    assert not masks.crop_targets(packed, jnp.zeros(3, int), jnp.zeros((3, 4)), width=W).any()
    none = masks.crop_targets(jnp.zeros((2, H, 6), jnp.uint8), jnp.zeros(0, int), jnp.zeros((0, 4)), width=W)
    assert none.shape == (0, 28, 28)


def test_memory_is_that_of_a_few_bands_of_rows():
    """128 regions of a 800 x 1344 image in less than the 4.3 MB that one of its masks takes as float32."""
    shapes = [jax.ShapeDtypeStruct((100, 800, 168), jnp.uint8), jax.ShapeDtypeStruct((128,), jnp.int32)]
    compiled = crop.lower(*shapes, jax.ShapeDtypeStruct((128, 4), jnp.float32), size=28, width=1344).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4e6


def test_pasted_masks_are_resized_to_whole_pixels(rng):
    squares = rng.random((len(BOXES), 4, 4)).astype(np.float32)
    got = paste(squares, BOXES, size=(H, W))
    ordinary = (BOXES[:, 2:] >= BOXES[:, :2]).all(1)
    for i in np.flatnonzero(ordinary):
        np.testing.assert_allclose(
            got[i], oracles.paste(squares[i], BOXES[i], (H, W)), atol=1e-5, err_msg=str(BOXES[i])
        )
    assert np.isfinite(got).all()


def test_negative_corners_are_cut_towards_zero():
    """A mask of 4 cells grows by a half: -0.5..3.5 becomes -1.5..4.5, which is pixels -1..4, one for each cell."""
    pasted = paste(np.ones((1, 4, 4), np.float32), np.array([[-0.5, -0.5, 3.5, 3.5]], np.float32), size=(8, 8))
    np.testing.assert_allclose(pasted[0, 2], [1, 1, 1, 1, 0, 0, 0, 0], atol=1e-6)


def test_where_boxes_are_elsewhere_or_padding_nothing_is_pasted():
    pasted = paste(np.ones((len(BOXES), 4, 4), np.float32), BOXES, size=(H, W))
    assert not pasted[4:6].any()
    assert not pasted[7].ravel()[1:].any()


def test_mask_iou_equals_coco(rng, monkeypatch):
    one, other = rng.random((5, 13, 9)) > 0.4, rng.random((7, 13, 9)) > 0.7
    one[0], other[0], other[1] = False, False, one[1]
    runs = [[coco_mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in group] for group in (one, other)]
    want = coco_mask.iou(*runs, [0] * 7)
    want[0, 0] = 0  # COCO divides zero by zero there.
    np.testing.assert_allclose(jax.jit(masks.mask_iou)(one, other), want, atol=1e-6)
    # A few rows at a time, the last band reaching back.
    monkeypatch.setattr(masks, "CHUNK_BYTES", 4 * 9 * 12 * 5)
    np.testing.assert_allclose(jax.jit(lambda a, b: masks.mask_iou(a, b))(one, other), want, atol=1e-6)


@pytest.mark.parametrize(("n", "m", "h"), [(0, 3, 4), (3, 0, 4), (0, 0, 4), (2, 3, 0)])
def test_mask_iou_of_nothing(n, m, h):
    found = masks.mask_iou(jnp.ones((n, h, 5), bool), jnp.ones((m, h, 5), bool))
    np.testing.assert_array_equal(found, np.zeros((n, m)))


def test_lowers_for_every_platform_from_one_trace(objects):
    def both(packed, target, boxes):
        cropped = masks.crop_targets(packed, target, boxes, size=SIZE, width=W)
        return cropped, masks.paste(cropped, boxes, size=(H, W))

    given = masks.pack(objects), np.zeros(len(BOXES), np.int32), BOXES
    exported = export.export(jax.jit(both), platforms=["cpu", "cuda", "tpu"])(*given)
    np.testing.assert_allclose(exported.call(*given)[0], crop(*given, size=SIZE, width=W), atol=1e-6)


def test_many_regions_at_once_give_what_one_at_a_time_gives(objects, monkeypatch):
    """What accelerators run, on the CPU."""
    monkeypatch.setattr(masks.jax.lax, "platform_dependent", lambda *given, cpu, default: default(*given))
    monkeypatch.setattr(masks, "REGIONS", 6)
    given = masks.pack(objects), np.arange(len(BOXES), dtype=np.int32) % 4, BOXES
    got = jax.jit(lambda *a: masks.crop_targets(*a, size=SIZE, width=W))(*map(jnp.asarray, given))
    np.testing.assert_allclose(got, crop(*given, size=SIZE, width=W), atol=1e-6)
