"""Slow, obvious references for the box operations: loops over single boxes, written from the definitions."""

import math

import numpy as np


def area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def intersection(a, b):
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def iou(a, b):
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    return shared / union if union > 0 else 0.0


def giou(a, b):
    around = area((min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])))
    union = area(a) + area(b) - intersection(a, b)
    return iou(a, b) - ((around - union) / around if around > 0 else 0.0)


def diou(a, b):
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    distance = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    return iou(a, b) - (distance / diagonal if diagonal > 0 else 0.0)


def pairwise(measure, boxes1, boxes2):
    """`measure` of each pair, in float64."""
    boxes1, boxes2 = np.asarray(boxes1, np.float64), np.asarray(boxes2, np.float64)
    return np.array([[measure(a, b) for b in boxes2] for a in boxes1]).reshape(len(boxes1), len(boxes2))


def iou_matrix32(boxes):
    """IoU of all pairs in float32, the precision in which a threshold is compared."""
    boxes = np.asarray(boxes, np.float32)
    corners = np.concatenate([np.maximum(boxes[:, None, :2], boxes[None, :, :2]),
                              np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])], axis=2)  # fmt: skip
    sides = np.maximum(corners[..., 2:] - corners[..., :2], 0)
    shared = sides[..., 0] * sides[..., 1]
    areas = np.diag(shared)
    union = areas[:, None] + areas[None, :] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0).astype(np.float32)


def nms(boxes, scores, threshold, labels=None, valid=None):
    """Greedy suppression, one box after the other; the indices kept, best first."""
    ious = iou_matrix32(boxes)
    usable = ~np.isnan(scores) if valid is None else valid & ~np.isnan(scores)
    kept = []
    for i in np.argsort(-np.where(usable, scores, -np.inf), kind="stable"):
        rivals = [j for j in kept if labels is None or labels[i] == labels[j]]
        if usable[i] and not any(ious[i, j] > np.float32(threshold) for j in rivals):
            kept.append(int(i))
    return kept


def encode(box, anchor, weights):
    (w, h), (aw, ah) = (box[2] - box[0], box[3] - box[1]), (anchor[2] - anchor[0], anchor[3] - anchor[1])
    dx = ((box[0] + box[2]) / 2 - (anchor[0] + anchor[2]) / 2) / aw
    dy = ((box[1] + box[3]) / 2 - (anchor[1] + anchor[3]) / 2) / ah
    return [weights[0] * dx, weights[1] * dy, weights[2] * math.log(w / aw), weights[3] * math.log(h / ah)]


def match(anchors, boxes, valid, positive, negative, low_quality):
    """(target, status, quality) of each anchor, one anchor and one box at a time."""
    ious = pairwise(iou, boxes, anchors)
    usable = [g for g in range(len(boxes)) if valid[g]]
    target, status, quality = [], [], []
    for a in range(len(anchors)):
        best = max(usable, key=lambda g, a=a: (ious[g, a], -g), default=None)
        value = ious[best, a] if usable else 0.0
        target.append(best if value > 0 else 0)
        quality.append(value)
        status.append(1 if usable and value >= positive else 0 if not usable or value < negative else -1)
        if low_quality and any(ious[g, a] == ious[g].max() > 0 for g in usable):
            status[-1] = 1
    return np.array(target), np.array(status), np.array(quality)
