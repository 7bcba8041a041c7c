"""Small RetinaNets and FCOSes, and what both are tested by."""

import numpy as np

from configs.pyramid_detectors import FCOS, RetinaNet
from segjax.models.heads.fcos import FCOSSettings
from segjax.models.heads.retina import RetinaSettings
from tests import oracles

SMALL = {"depth": 18, "norm": "group", "width": 8, "stages": (1, 2, 3), "channels": 16, "extra": "none"}
RETINA = RetinaNet(
    **SMALL,
    tower_depth=2,
    tower_norm="group",
    head=RetinaSettings(anchor_sizes=((12.0,), (24.0,), (40.0,)), candidates=40, detections=12),
)
FCOS_SMALL = FCOS(
    **SMALL,
    tower_depth=2,
    head=FCOSSettings(units=(4.0, 8.0, 16.0), candidates=40, detections=12, score_threshold=0.05),
)
SIZE, MAPS = (32, 48), [(8, 12), (4, 6), (2, 3)]


def focal(logit, wanted, alpha=0.25, gamma=2.0):
    """Of one binary choice, in double precision."""
    p = 1 / (1 + np.exp(-np.float64(logit)))
    return -alpha * (1 - p) ** gamma * np.log(p) if wanted else -(1 - alpha) * p**gamma * np.log(1 - p)


def summed_focal(logits, label):
    """Over the classes of a place whose class is `label`, or -1."""
    return sum(focal(x, c == label) for c, x in enumerate(logits))


def detections(scores, boxes, levels, settings):
    """(box, score, label) of what is kept of an image, best first: level by level, then one pair after the other."""
    pairs, start = [], 0
    for count in levels:
        of_level = [(scores[i, c], i, c) for i in range(start, start + count) for c in range(scores.shape[1])]
        of_level = [pair for pair in of_level if pair[0] > settings.score_threshold]
        pairs += sorted(of_level, key=lambda pair: -pair[0])[: settings.candidates]
        start += count
    found = [np.array(x) for x in zip(*pairs)]
    kept = oracles.nms(boxes[found[1]], found[0], settings.nms_threshold, labels=found[2])[: settings.detections]
    return [(boxes[found[1][k]], found[0][k], found[2][k]) for k in kept]


def check_detections(found, expected):
    """`found` are Detections of an image; `expected` as `detections` gives them."""
    n = len(expected)
    assert n > 5 and found.valid[:n].all() and not found.valid[n:].any() and not found.scores[n:].any()
    boxes, scores, labels = zip(*expected)
    np.testing.assert_allclose(found.boxes[:n], boxes, atol=1e-4)
    np.testing.assert_allclose(found.scores[:n], scores, rtol=1e-5)
    np.testing.assert_array_equal(found.labels[:n], labels)
