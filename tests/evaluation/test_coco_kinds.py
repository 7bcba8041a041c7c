"""AP of masks and joints against pycocotools, and what belongs to these kinds alone."""

import dataclasses
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segjax.data.segmentations import segmentation_to_mask
from segjax.evaluation.coco_ap import CocoAP
from segjax.evaluation.detection_evaluator import DetectionEvaluator
from tests.evaluation.listed import ListedSource, detections, feed, objects
from tests.evaluation.posed import (
    JOINTS,
    PARTS,
    SIZE,
    circle,
    disturbed,
    feed_posed,
    posed_source,
    segmentation,
)

KINDS = ("boxes", "masks", "keypoints")
MASK_NAMES = [f"mask_{n}" for n in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100")]
MASK_NAMES += ["mask_AR_small", "mask_AR_medium", "mask_AR_large"]
JOINT_NAMES = [f"keypoint_{n}" for n in ("AP", "AP50", "AP75", "AP_medium", "AP_large")]
JOINT_NAMES += [f"keypoint_{n}" for n in ("AR", "AR50", "AR75", "AR_medium", "AR_large")]


def pycocotools_run(source, results, kind):
    """COCOeval on the source written out as a COCO file, and the results as they go into a JSON file."""
    annotations = []
    for i in range(len(source)):
        listed = source.annotations(i)
        for j, (box, label) in enumerate(zip(listed.boxes.tolist(), listed.labels.tolist())):
            drawn, points = listed.segmentations[j], listed.keypoints[j]
            x1, y1, x2, y2 = box
            row = {
                "id": len(annotations) + 1,
                "image_id": i + 1,
                "category_id": label + 1,
                "area": float(listed.areas[j]),
            }
            row |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(listed.crowd[j])}
            if kind == "segm" and drawn is None:  # as documented: a crowd in its box
                drawn, row["iscrowd"] = [[x1, y1, x1, y2, x2, y2, x2, y1]], 1
            row |= {"segmentation": drawn, "keypoints": points.ravel().tolist()}
            annotations.append(row | {"num_keypoints": int((points[:, 2] > 0).sum())})
    truth = COCO()
    images = [{"id": i + 1, "height": SIZE[0], "width": SIZE[1]} for i in range(len(source))]
    categories = [{"id": k, "name": name} for k, name in enumerate(source.classes, start=1)]
    truth.dataset = {"info": {}, "images": images, "categories": categories, "annotations": annotations}
    truth.createIndex()
    field = {"segm": "segmentation", "keypoints": "keypoints"}[kind]
    kept = [{name: row[name] for name in ("image_id", "category_id", "score", field)} for row in results]
    run = COCOeval(truth, truth.loadRes(json.loads(json.dumps(kept))), kind)
    if kind == "keypoints":
        run.params.kpt_oks_sigmas = np.asarray(source.keypoints.sigmas or [0.05] * 4)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run


@pytest.mark.parametrize("seed", range(3))
def test_masks_and_joints_equal_pycocotools(seed, capsys):
    rng = np.random.default_rng(seed)
    source = posed_source(rng, joints=JOINTS if seed else JOINTS._replace(sigmas=None))
    evaluator = feed_posed(DetectionEvaluator(source, classes=source.classes, kinds=KINDS), rng, source)
    scores = evaluator.compute()
    assert capsys.readouterr().out == ""
    for kind, names, prefix in (("segm", MASK_NAMES, "mask_"), ("keypoints", JOINT_NAMES, "keypoint_")):
        run = pycocotools_run(source, evaluator.results(), kind)
        assert 0.05 < run.stats[0] < 0.95
        expected = np.where(run.stats == -1, np.nan, run.stats)
        np.testing.assert_allclose([scores[name] for name in names], expected, rtol=0, atol=1e-12)
        own = [name for name in scores if name.startswith(prefix) and "/" not in name and "sigma" not in name]
        assert own == names
        for k, name in enumerate(source.classes):
            table = run.eval["precision"][:, :, k, 0, -1]
            assert scores[f"{prefix}AP/{name}"] == pytest.approx(table.mean(), abs=1e-12)
            assert scores[f"{prefix}AP50/{name}"] == pytest.approx(table[0].mean(), abs=1e-12)
    assert scores.get("keypoint_assumed_sigma") == (None if seed else 0.05)


BOX = [20, 30, 120, 150]
POSE = np.asarray([[[30, 40, 2], [60, 60, 1], [0, 0, 0], [100, 140, 2]]], np.float32)
ROUND = (np.hypot(*((np.mgrid[:PARTS, :PARTS] + 0.5) / PARTS - 0.5)) < 0.5).astype(np.float32)


def one_object(**changes) -> ListedSource:
    truth = objects([BOX], [0])
    given = {"segmentations": (segmentation(BOX, "polygon"),), "keypoints": POSE} | changes
    source = ListedSource([dataclasses.replace(truth, **given)], size=SIZE)
    source.keypoints = JOINTS
    return source


def scored(source, kind, *, box=BOX, mask=ROUND, pose=POSE, label=0):
    found = detections([(box, 0.9, label)]).replace(masks=mask[None, None], keypoints=pose[None])
    evaluator = CocoAP(source, classes=source.classes, kind=kind)
    evaluator.update(np.asarray([0]), np.asarray([SIZE]), found)
    return evaluator.compute()


def test_an_ellipse_found_is_found():
    assert scored(one_object(), "masks")["mask_AP50"] == pytest.approx(1.0)
    assert scored(one_object(), "masks")["mask_AP/ant"] > 0.7
    assert scored(one_object(), "masks", mask=1 - ROUND)["mask_AP50"] == 0.0
    assert np.isnan(scored(one_object(), "masks")["mask_AP/bee"])


def test_joints_that_are_not_labelled_do_not_count():
    elsewhere = POSE + np.asarray([[0, 0, 0], [0, 0, 0], [90, 90, 0], [0, 0, 0]], np.float32)
    assert scored(one_object(), "keypoints", pose=elsewhere)["keypoint_AP"] == pytest.approx(1.0)
    assert scored(one_object(), "keypoints", pose=elsewhere[:, ::-1].copy())["keypoint_AP"] == 0.0


def test_similarity_uses_the_sigmas_of_the_data():
    """An object of s² = 12 000 square pixels, each joint d off: OKS is exp(-d² / (2 s² (2 sigma)²))."""
    off = POSE + np.asarray([5, 0, 0], np.float32)
    for sigma in (0.03, 0.06):
        source = one_object()
        source.keypoints = JOINTS._replace(sigmas=(sigma,) * 4)
        similarity = np.exp(-25 / (2 * 12_000 * (2 * sigma) ** 2))
        reached = np.mean(similarity >= np.arange(0.5, 0.96, 0.05))
        assert 0 < reached < 1
        assert scored(source, "keypoints", pose=off)["keypoint_AP"] == pytest.approx(reached)


@pytest.mark.parametrize(("kind", "changes"), [("masks", {"segmentations": (None,)}), ("keypoints", {})])
def test_an_object_without_is_neither_demanded_nor_punished(kind, changes):
    prefix = {"masks": "mask_", "keypoints": "keypoint_"}[kind]
    changes = changes or {"keypoints": POSE * 0}
    assert np.isnan(scored(one_object(**changes), kind)[f"{prefix}AP"])
    listed = [one_object().annotations(0), one_object(**changes).annotations(0)]
    source = ListedSource(listed, size=SIZE)
    source.keypoints = JOINTS
    found = detections([(BOX, 0.5, 0)], [(BOX, 0.9, 0)])
    found = found.replace(masks=np.stack([ROUND[None]] * 2), keypoints=np.stack([POSE] * 2))
    evaluator = CocoAP(source, classes=source.classes, kind=kind)
    evaluator.update(np.arange(2), np.asarray([SIZE] * 2), found)
    assert evaluator.compute()[f"{prefix}AP50"] == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["masks", "keypoints"])
def test_without_detections_zero_and_without_images_nan(kind):
    source = one_object()
    prefix = {"masks": "mask_", "keypoints": "keypoint_"}[kind]
    assert all(np.isnan(value) for value in CocoAP(source, classes=source.classes, kind=kind).compute().values())
    scores = feed(CocoAP(source, classes=source.classes, kind=kind), source, [[]]).compute()
    assert scores[f"{prefix}AP"] == 0.0 and scores[f"{prefix}AP/ant"] == 0.0


def test_precision_recall_is_that_of_the_kind():
    source = one_object()
    found = detections([(BOX, 0.9, 0)]).replace(masks=(1 - ROUND)[None, None], keypoints=POSE[None])
    evaluator = DetectionEvaluator(source, classes=source.classes, kinds=KINDS)
    evaluator.update(np.asarray([0]), np.asarray([SIZE]), found)
    means = {kind: coco.precision_recall().precision[0].mean() for kind, coco in evaluator.coco.items()}
    assert means == pytest.approx({"boxes": 1.0, "masks": 0.0, "keypoints": 1.0})


def test_faults_are_named():
    source = one_object()
    with pytest.raises(ValueError, match=r"kind must be one of boxes, masks, keypoints, got 'mask'"):
        CocoAP(source, classes=source.classes, kind="mask")
    for kind, message in (("masks", "the model gives no masks"), ("keypoints", "the model gives no joints")):
        evaluator = feed(CocoAP(source, classes=source.classes, kind=kind), source, [[(BOX, 0.9, 0)]])
        with pytest.raises(ValueError, match=message):
            evaluator.compute()
    with pytest.raises(ValueError, match=r"gives 3 joints and the data set 'listed' has 4: head, hand, foot, tail"):
        scored(source, "keypoints", pose=POSE[:, :3])
    source.keypoints = JOINTS._replace(sigmas=(0.1,))
    with pytest.raises(ValueError, match=r"'listed' states 1 sigmas for 4 joints"):
        scored(source, "keypoints")
    source.keypoints = None
    with pytest.raises(ValueError, match="'listed' has no joints to evaluate"):
        DetectionEvaluator(source, classes=source.classes, kinds=("boxes", "keypoints"))


def test_one_collector_serves_all_scores(rng):
    source = posed_source(rng, images=8)
    batch = disturbed(rng, source, np.arange(8))
    everything = DetectionEvaluator(source, classes=source.classes, kinds=KINDS)
    single = [CocoAP(source, classes=source.classes, kind=kind) for kind in KINDS]
    for evaluator in (everything, *single):
        evaluator.update(np.arange(8), np.full((8, 2), SIZE), batch)
    scores = everything.compute()
    alone = {name: value for evaluator in single for name, value in evaluator.compute().items()}
    assert {name for name in scores if "VOC" not in name} == set(alone)
    np.testing.assert_equal({name: scores[name] for name in alone}, alone)
    assert 0 < scores["VOC_AP"] < 1 and everything.results() == single[0].results()
    assert all(coco.collector is everything.collector for coco in everything.coco.values())
    assert not any("VOC" in name for name in DetectionEvaluator(source, classes=source.classes, voc=False).compute())
    with pytest.raises(ValueError, match="the collector is of the data set 'listed', not of 'other'"):
        other = posed_source(rng, images=1)
        other.name = "other"
        CocoAP(other, classes=other.classes, collector=everything.collector)


def test_circles_are_what_they_seem():
    """The forms of segmentation that the comparison with pycocotools relies on describe one ellipse."""
    drawn = [segmentation_to_mask(segmentation(BOX, form), *SIZE) for form in ("compressed", "run lengths")]
    np.testing.assert_array_equal(drawn[0], circle(BOX))
    np.testing.assert_array_equal(drawn[1], circle(BOX))
    assert (segmentation_to_mask(segmentation(BOX, "polygon"), *SIZE) != drawn[0]).sum() < 0.06 * drawn[0].sum()
