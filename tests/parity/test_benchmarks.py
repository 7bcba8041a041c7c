"""The comparison with torchvision runs from end to end, and compares results before it times them."""

import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from benchmarks import cases, detector_cases, detectors, machine, peers, two_stage_detectors  # noqa: E402
from benchmarks.random_weights import spread  # noqa: E402
from segjax.types import Detections  # noqa: E402

CPU = cases.Setting("cpu", "float32")


def test_quick_run_of_the_ops(tmp_path, capsys):
    out = tmp_path / "results.json"
    heads = ("mask_targets_128", "paste_masks_100", "decode_heatmaps_100")
    asked = ("iou_1000", "nms_1000_clustered", "multilevel_roi_align_forward_backward", "roi_pool_forward", *heads)
    assert peers.main(["--quick", "--out", str(out), "--cases", *asked]) == 0
    report = json.loads(out.read_text())
    assert {r["case"] for r in report["results"]} == {*asked, "iou_1000x1000", "roi_pool_forward_backward"} - {
        "iou_1000"
    }
    for result in report["results"]:
        assert len(result["ratios"]) == 3 and min(result["ratios"]) > 0
        assert result["differences"] and max(result["differences"].values()) <= 1e-4
    assert str(tmp_path) not in out.read_text()
    assert "| nms_1000_clustered" in capsys.readouterr().out


def test_quick_inference_finds_the_same_objects(tmp_path):
    out = tmp_path / "results.json"
    # Masks and all that the plain detector does.
    assert peers.main(["--quick", "--out", str(out), "--cases", "mask_rcnn_predict"]) == 0
    (result,) = json.loads(out.read_text())["results"]
    facts = result["facts"]
    assert facts["proposals"] > 100 and facts["detections"] == facts["detections of torchvision"] > 10
    assert facts["regions of masks"] == facts["detections"]
    assert set(result["differences"]) == {"detections without counterpart", "mask pixels that differ"}
    # On Linux: the pasted masks alone are 100 x 192 x 256 floats.
    for side in ("segjax", "torchvision"):
        assert result[f"{side}_peak_mib"] is None or result[f"{side}_peak_mib"] > 15


def test_quick_training_has_the_same_losses_and_parameters(tmp_path):
    """The cheapest detector, in a process of its own: with types checked, JAX cannot describe a batch as arguments."""
    out = tmp_path / "results.json"
    asked = ["--quick", "--out", str(out), "--cases", "faster_rcnn_mobilenet_320_train"]
    subprocess.run([sys.executable, "-m", "benchmarks.peers", *asked], check=True, cwd=machine.ROOT)
    (result,) = json.loads(out.read_text())["results"]
    assert set(result["differences"]) == {"rpn_objectness", "rpn_box", "class", "box"}
    assert max(result["differences"].values()) <= 1e-3 and result["facts"]["trained parameters"] > 1e7


def test_cases_are_a_table():
    names = [case.name for case in peers.choose(peers.Options())]
    assert len(set(names)) == len(names)
    for title, detector in detector_cases.DETECTORS.items():
        with torch.device("meta"):
            theirs = getattr(torchvision.models.detection, detector.name)(weights=None, weights_backbone=None)
        predictions = [name for name in names if name.startswith(f"{title}_predict_")]
        assert len(predictions) == len(detector.predict) * (2 if detector.channels_last else 1)
        assert sum(name.startswith(f"{title}_train_") for name in names) == (detector.train is not None)
        for size in {*detector.predict, detector.train or detector.quick, detector.quick}:
            # What torchvision would bring every image to, or pad it to: nothing is resized here.
            assert size == (theirs.transform.fixed_size or tuple(np.ceil(np.divide(size, 32)) * 32))


@pytest.mark.parametrize("name", ["mask_rcnn", "keypoint_rcnn", "faster_rcnn"])
def test_both_libraries_are_given_the_same_objects(name):
    detector = detector_cases.DETECTORS[name]
    data = detectors.make_images(detector, CPU, 2, (64, 96))
    truth, count = data.batch.instances, detectors.OBJECTS
    assert truth.boxes.shape == (2, detectors.CAPACITY, 4) and int(truth.valid.sum()) == 2 * count
    assert (truth.masks is not None, truth.keypoints is not None) == (detector.masks, detector.keypoints)
    for i, target in enumerate(data.targets):
        np.testing.assert_array_equal(truth.boxes[i, :count], target["boxes"])
        np.testing.assert_array_equal(truth.labels[i, :count] + 1, target["labels"])
        if detector.masks:
            masks = np.unpackbits(np.asarray(truth.masks[i, :count]), axis=-1, count=96)
            np.testing.assert_array_equal(masks, target["masks"])
            assert (masks.sum((1, 2)) > 0).all()
        if detector.keypoints:
            np.testing.assert_array_equal(truth.keypoints[i, :count], target["keypoints"])


def test_ellipses_fill_their_boxes():
    (mask,) = detectors.ellipses(np.array([[10.0, 20.0, 50.0, 40.0]], np.float32), (64, 96))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (20, 39, 10, 49)
    assert mask.sum() == pytest.approx(np.pi * 20 * 10, rel=0.02)


def test_objects_are_where_most_proposals_are():
    corners = np.repeat(np.arange(8) * 100.0, [9, 8, 7, 6, 5, 4, 3, 2])
    boxes = np.stack([corners, 0 * corners, corners + 40, 0 * corners + 40], axis=1)
    order = np.random.default_rng(0).permutation(len(boxes))
    chosen = two_stage_detectors.most_surrounded(torch.from_numpy(boxes[order].astype(np.float32)))
    assert chosen[:, 0].tolist() == [0, 100, 200, 300, 400, 500, 600, 700]


@pytest.mark.parametrize("layer", [torch.nn.Linear(4, 3), torch.nn.Conv2d(4, 3, 3), torch.nn.ConvTranspose2d(4, 3, 2)])
def test_outputs_of_a_layer_that_is_spread(layer):
    torch.manual_seed(0)
    x = torch.randn(50, 4) if isinstance(layer, torch.nn.Linear) else torch.randn(5, 4, 8, 8)
    with torch.no_grad():
        spread(layer, 1.5, lambda: layer(x))
        outputs = layer(x).movedim(1, -1).reshape(-1, 3)
    np.testing.assert_allclose(outputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(outputs.std(0), 1.5, rtol=1e-5)


def test_frozen_norms_compute_what_the_others_did():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Sequential(torch.nn.BatchNorm2d(4))).eval()
    for tensor in network[1][0].state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    x = torch.randn(2, 3, 5, 5)
    expected = network(x).detach()
    detectors.freeze_norms(network)
    network.train()
    np.testing.assert_allclose(network(x).detach(), expected, rtol=1e-5, atol=1e-6)
    assert [name for name, _ in network.named_parameters()] == ["0.weight", "0.bias"]


def found_objects(**changes):
    """Two detections for each side, `changes` made to ours: (ours, our masks over the image, torchvision's)."""
    boxes = np.array([[10, 10, 40, 40], [50, 20, 90, 60]], np.float32)
    masks = np.ones((1, 2, 64, 96), np.float32)
    joints = np.array([[[15, 15, 1], [30, 20, 1]], [[60, 30, 1], [80, 50, 1]]], np.float32)
    ours = {"boxes": boxes, "scores": np.float32([0.9, 0.5]), "labels": np.int32([3, 4]), "keypoints": joints}
    theirs = {name: torch.from_numpy(x) for name, x in ours.items()} | {"masks": torch.ones(2, 1, 64, 96)}
    theirs["labels"] = torch.tensor([4, 5])
    masks = changes.pop("masks", masks)
    ours = {name: jnp.asarray(changes.get(name, x))[None] for name, x in ours.items()}
    return Detections(**ours, valid=jnp.ones((1, 2), bool)), jnp.asarray(masks), theirs


def test_detections_that_agree_have_no_differences():
    differences = detector_cases.compare_detections(CPU, *found_objects())
    assert len(differences) == 3 and not any(differences.values())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("detections", {"scores": np.float32([0.9, 0.6])}),
        ("detections", {"labels": np.int32([3, 3])}),
        ("masks", {"masks": np.zeros((1, 2, 64, 96), np.float32)}),
        ("keypoints", {"keypoints": np.zeros((2, 2, 3), np.float32)}),
    ],
)
def test_detections_that_differ_are_not_timed(name, changes):
    with pytest.raises(ValueError, match=f"{name}: results differ by"):
        detector_cases.compare_detections(CPU, *found_objects(**changes))


def test_results_that_differ_are_not_timed():
    assert cases.checked("x", jnp.ones(3), torch.ones(3), 0.0) == 0.0
    with pytest.raises(ValueError, match=r"x: results differ by 0\.5 of the largest value, tolerance 0\.1"):
        cases.checked("x", jnp.ones(3), torch.full((3,), 2.0), 0.1)
    with pytest.raises(ValueError, match="differ by nan"):
        cases.checked("x", jnp.full(3, np.nan), torch.ones(3), 0.1)
    with pytest.raises(ValueError, match=r"segjax gives shape \(2,\), torchvision \(3,\)"):
        cases.checked("x", jnp.ones(2), torch.ones(3), 0.1)


def test_an_unknown_case_is_named_with_the_known_ones():
    with pytest.raises(SystemExit, match="no case has 'nmss' in its name; there are iou_1000x1000, "):
        peers.main(["--cases", "nmss"])
