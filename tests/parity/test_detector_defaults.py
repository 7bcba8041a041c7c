"""What `pretrained.model` makes has torchvision's numbers, for every detector there are weights of.

The size of the images is not among them, since ours leave it to the data: torchvision resizes the shorter side to 800
pixels, of `fasterrcnn_mobilenet_v3_large_320_fpn` to 320, in training of `keypointrcnn_resnet50_fpn` to one of 640 to
800.
"""

import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from segjax.models.layers.norms import EPSILON  # noqa: E402
from segjax.pretrained.models import TWO_STAGE  # noqa: E402
from tests.parity.detectors import made_of  # noqa: E402


@pytest.fixture(scope="module", params=TWO_STAGE)
def pair(request):
    """(ours, torchvision's) as their builders make them without options but for the weights."""
    with torch.device("meta"):
        make = getattr(torchvision.models.detection, request.param)
        return made_of(request.param), make(weights=None, weights_backbone=None)


def test_images(pair):
    (trunk, _, _), theirs = pair
    assert list(trunk.mean) == theirs.transform.image_mean and list(trunk.std) == theirs.transform.image_std


def test_region_proposals(pair):
    (_, ours, _), theirs = pair
    settings, rpn = ours.settings, theirs.rpn
    levels = len(settings.anchor_sizes)
    assert settings.anchor_sizes == rpn.anchor_generator.sizes
    assert (settings.ratios,) * levels == rpn.anchor_generator.aspect_ratios
    for pair_of_counts, counts in (
        (settings.candidates, rpn._pre_nms_top_n),
        (settings.proposals, rpn._post_nms_top_n),
    ):
        assert dict(zip(("training", "testing"), pair_of_counts)) == counts
    matcher, sampler = rpn.proposal_matcher, rpn.fg_bg_sampler
    assert (settings.positive_threshold, settings.negative_threshold) == (matcher.high_threshold, matcher.low_threshold)
    assert (settings.samples, settings.positive_fraction) == (sampler.batch_size_per_image, sampler.positive_fraction)
    assert (settings.nms_threshold, settings.min_size) == (rpn.nms_thresh, rpn.min_size)
    assert settings.score_threshold == rpn.score_thresh
    assert ours.network.anchors == rpn.head.cls_logits.out_channels


def test_sampled_regions(pair):
    (_, _, ours), theirs = pair
    matcher, sampler = theirs.roi_heads.proposal_matcher, theirs.roi_heads.fg_bg_sampler
    assert ours.sampling.threshold == matcher.high_threshold
    assert ours.sampling.negatives == (0.0, matcher.low_threshold)
    assert ours.sampling.samples == sampler.batch_size_per_image
    assert ours.sampling.positive_fraction == sampler.positive_fraction


def test_heads(pair):
    (_, _, ours), theirs = pair
    heads, box = theirs.roi_heads, ours.heads["box"]
    assert list(ours.heads) == ["box"] + ["mask"] * heads.has_mask() + ["keypoint"] * heads.has_keypoint()
    assert box.settings.weights == heads.box_coder.weights
    assert box.settings.score_threshold == heads.score_thresh and box.settings.nms_threshold == heads.nms_thresh
    assert box.settings.detections == heads.detections_per_img
    for name, head in ours.heads.items():
        pool = getattr(heads, f"{name}_roi_pool")
        assert (head.pool.size, head.pool.size) == pool.output_size and head.pool.kind == "align"
        assert (head.pool.sampling_ratio, head.pool.canonical_size) == (pool.sampling_ratio, pool.canonical_scale)


def test_outputs(pair):
    (_, _, ours), theirs = pair
    heads = theirs.roi_heads
    assert ours.heads["box"].network.classes == heads.box_predictor.cls_score.out_features - 1
    if heads.has_mask():
        assert ours.heads["mask"].network.classes == heads.mask_predictor.mask_fcn_logits.out_channels - 1
    if heads.has_keypoint():
        assert ours.heads["keypoint"].network.joints == heads.keypoint_predictor.out_channels


def test_norms(pair):
    """All add the same to the variance."""
    (trunk, _, _), theirs = pair
    added = {norm.eps for norm in theirs.modules() if isinstance(norm, torch.nn.BatchNorm2d)}
    assert added == {getattr(trunk.backbone, "epsilon", EPSILON)} == {EPSILON}


def test_pooled_levels(pair):
    """The strides of the maps that regions are pooled from."""
    (_, _, ours), theirs = pair
    size, pool = 256, theirs.roi_heads.box_roi_pool
    with torch.device("meta"):
        features = theirs.eval().backbone(torch.zeros(1, 3, size, size))
    strides = [size // features[name].shape[-1] for name in pool.featmap_names if name in features]
    # Of maps of one stride, the first is pooled from: the level of a box is counted in doublings.
    assert list(ours.strides) == sorted(set(strides))
