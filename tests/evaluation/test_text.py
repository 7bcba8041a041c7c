"""Scores as text: every number that was given is there, in its place."""

from segjax.evaluation.detection_evaluator import DetectionEvaluator
from segjax.evaluation.text import other_scores, text_table
from tests.evaluation.posed import JOINTS, feed_posed, posed_source


def rows(text: str) -> dict[tuple[str, str], str]:
    """The numbers of all tables by (row, column)."""
    cells, header = {}, []
    for line in text.splitlines():
        words = line.split()
        numbers = words[-len(header) :] if header else []
        if numbers and all(word == "–" or word.lstrip("-").replace(".", "").isdigit() for word in numbers):
            name = " ".join(words[: -len(header)])
            cells |= {(name, column): value for column, value in zip(header, numbers)}
        elif words:
            header = [word for word in words if word not in ("class", "other", "scores")]
    return cells


def test_all_kinds_are_shown(rng):
    source = posed_source(rng, joints=JOINTS._replace(sigmas=None))
    source.classes = ("ant", "bee", "cat")
    kinds = ("boxes", "masks", "keypoints")
    evaluator = feed_posed(DetectionEvaluator(source, classes=source.classes, kinds=kinds), rng, source)
    results = evaluator.compute() | {"angle_error": 12.34567, "images_per_second": 20.0, "bee/colour": 0.25}
    text = text_table(results, source.classes)
    shown = rows(text)
    for kind, prefix in (("boxes", ""), ("masks", "mask_"), ("keypoints", "keypoint_")):
        for name in ("AP", "AP50", "AP75", "AP_medium", "AR_medium"):
            assert shown[kind, name] == f"{results[prefix + name]:.3f}", (kind, name)
        for name in source.classes:
            assert shown[name, f"{prefix}AP"] == f"{results[f'{prefix}AP/{name}']:.3f}"
    assert shown["masks", "AR10"] == f"{results['mask_AR10']:.3f}" and shown["keypoints", "AP_small"] == "–"
    assert shown["keypoints", "AR75"] == f"{results['keypoint_AR75']:.3f}" and ("keypoints", "AR10") not in shown
    assert "a sigma of 0.05 is assumed for every joint" in text
    assert f"VOC AP (area) {results['VOC_AP']:.3f}, 11-point {results['VOC_AP_11point']:.3f}" in text
    assert "  angle_error   12.346" in text and "  bee/colour     0.250" in text and "images_per_second" not in text
    assert not any("VOC_AP/" in line for line in text.splitlines())


def test_boxes_alone_take_no_room_for_others():
    results = {"AP": 0.5, "AP50": float("nan"), "AR1": 0.25, "AP/ant": 0.5, "AP50/ant": 1.0}
    text = text_table(results, ("ant",))
    shown = rows(text)
    assert shown["boxes", "AP"] == "0.500" and shown["boxes", "AP50"] == "–" and shown["ant", "AP50"] == "1.000"
    assert "mask" not in text and "keypoint" not in text and "VOC" not in text and "sigma" not in text


def test_other_scores_are_those_of_nobody_else():
    known = {"AP": 0.1, "mask_AP": 0.2, "VOC_AP": 0.3, "AP/ant": 0.4, "VOC_AP/ant": 0.5, "images_per_second": 6.0}
    own = {"angle_error": 7.0, "angle_error/ant": 8.0, "angle/best": 9.0, "keypoint_AP50": 0.5}
    assert other_scores(known | own, ("ant",)) == {"angle_error": 7.0, "angle/best": 9.0, "keypoint_AP50": 0.5}
    assert text_table({"mine": 2e6}, ()).split() == ["other", "scores", "mine", "2e+06"]
