"""AP of masks and joints against pycocotools, and what belongs to these kinds alone."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segjax.evaluation.detection_evaluator import DetectionEvaluator
from tests.evaluation.posed import JOINTS, SIZE, feed_posed, posed_source

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
