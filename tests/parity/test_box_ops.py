"""Box operations against torchvision's, on the same random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
from torchvision.models.detection import _utils as detection_utils  # noqa: E402
from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402

from segjax.ops import anchors as anchor_ops  # noqa: E402
from segjax.ops import boxes as box_ops  # noqa: E402
from segjax.ops import matching, nms, sampling  # noqa: E402

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def random_boxes(rng, n, largest=60):
    corner = rng.uniform(-150, 150, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(1, largest, (n, 2))], axis=1).astype(np.float32)


def both(*arrays):
    return [jnp.asarray(a) for a in arrays], [torch.from_numpy(np.array(a)) for a in arrays]


@pytest.mark.parametrize(
    ("ours", "theirs"), [("iou", "box_iou"), ("giou", "generalized_box_iou"), ("diou", "distance_box_iou")]
)
def test_measures(ours, theirs, rng):
    jax_args, torch_args = both(random_boxes(rng, 80), random_boxes(rng, 50))
    expected = getattr(torchvision.ops, theirs)(*torch_args)
    np.testing.assert_allclose(jax.jit(getattr(box_ops, ours))(*jax_args), expected, rtol=1e-5, atol=1e-6)


def test_clip_and_formats(rng):
    (boxes,), (tensor,) = both(random_boxes(rng, 50))
    expected = torchvision.ops.clip_boxes_to_image(tensor, (70, 90))
    np.testing.assert_array_equal(box_ops.clip(boxes, (70, 90)), expected)
    for name in ("cxcywh", "xywh"):
        expected = torchvision.ops.box_convert(tensor, "xyxy", name)
        np.testing.assert_allclose(getattr(box_ops, f"xyxy_to_{name}")(boxes), expected, rtol=1e-6, atol=1e-5)


def test_encode_and_decode(rng):
    coder = detection_utils.BoxCoder(WEIGHTS)
    (boxes, anchors, deltas), tensors = both(
        random_boxes(rng, 60), random_boxes(rng, 60), rng.normal(0, 12, (60, 4)).astype(np.float32)
    )
    expected = coder.encode_single(tensors[0], tensors[1])
    np.testing.assert_allclose(box_ops.encode(boxes, anchors, weights=WEIGHTS), expected, rtol=1e-4, atol=1e-4)
    expected = coder.decode_single(tensors[2], tensors[1])
    np.testing.assert_allclose(box_ops.decode(deltas, anchors, weights=WEIGHTS), expected, rtol=1e-4, atol=1e-3)


def test_pyramid_anchors():
    sizes, ratios = ((32,), (64, 90), (128,)), (0.5, 1.0, 2.0)
    shapes, strides = [(24, 32), (12, 16), (6, 8)], [8, 16, 32]
    generator = AnchorGenerator(sizes, (ratios,) * 3)
    maps = [torch.zeros(1, 1, *shape) for shape in shapes]
    (expected,) = generator(ImageList(torch.zeros(1, 3, 192, 256), [(192, 256)]), maps)
    levels = anchor_ops.pyramid_anchors(shapes, strides=strides, sizes=sizes, ratios=ratios)
    np.testing.assert_array_equal(np.concatenate(levels), expected)


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("chunk", [8, 500])
def test_matcher(low_quality, chunk, rng):
    anchors, boxes = random_boxes(rng, 4000), random_boxes(rng, 60)
    anchors[:50], boxes[1] = anchors[50:100], boxes[0]
    (a, b), (ta, tb) = both(anchors, boxes)
    quality = torchvision.ops.box_iou(tb, ta)
    assert (quality.max(dim=1).values > 0).all()  # else torchvision makes every anchor of IoU 0 positive; we do not
    expected = detection_utils.Matcher(0.5, 0.3, low_quality)(quality).numpy()
    options = {"positive_threshold": 0.5, "negative_threshold": 0.3, "allow_low_quality": low_quality, "chunk": chunk}
    found = matching.match(a, b, jnp.ones(60, bool), **options)
    np.testing.assert_array_equal(found.status, np.where(expected >= 0, 1, np.where(expected == -1, 0, -1)))
    np.testing.assert_array_equal(np.asarray(found.target)[expected >= 0], expected[expected >= 0])
    np.testing.assert_allclose(found.quality, quality.max(dim=0).values, rtol=1e-6)


@pytest.mark.parametrize("counts", [(40, 200), (3, 200), (40, 5), (0, 9), (9, 0)])
@pytest.mark.parametrize("fraction", [0.25, 0.3, 0.5])
def test_sampler_counts(counts, fraction, rng, key):
    status = rng.permutation(np.repeat([1, 0, -1], [*counts, 20])).astype(np.int32)
    sampler = detection_utils.BalancedPositiveNegativeSampler(32, fraction)
    positive, negative = (int(mask[0].sum()) for mask in sampler([torch.from_numpy(status)]))
    found = sampling.sample_balanced(key, jnp.asarray(status), count=32, positive_fraction=fraction)
    assert (int(found.positive.sum()), int((found.valid & ~found.positive).sum())) == (positive, negative)


@pytest.mark.parametrize("n", [100, 1500])
def test_nms_and_batched_nms(n, rng):
    boxes, scores, labels = random_boxes(rng, n), rng.permutation(n).astype(np.float32) / n, rng.integers(0, 4, n)
    (b, s, c), tensors = both(boxes, scores, labels.astype(np.int32))
    plain, by_label = jax.jit(nms.nms), jax.jit(nms.batched_nms)
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        kept = torchvision.ops.nms(*tensors[:2], threshold).numpy()
        found = plain(b, s, iou_threshold=jnp.float32(threshold))
        np.testing.assert_array_equal(np.flatnonzero(found), np.sort(kept))
        np.testing.assert_array_equal(nms.top_detections(s, found, count=len(kept))[0], kept)
        # Class by class: the public `batched_nms` shifts small sets apart, which is wrong at negative coordinates.
        kept = torchvision.ops.boxes._batched_nms_vanilla(*tensors, threshold).numpy()
        found = by_label(b, s, c, iou_threshold=jnp.float32(threshold))
        np.testing.assert_array_equal(np.flatnonzero(found), np.sort(kept))
