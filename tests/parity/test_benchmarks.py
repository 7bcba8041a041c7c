"""The comparison with torchvision runs from end to end, and compares results before it times them."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from benchmarks import cases, peers  # noqa: E402


def test_quick_run_of_the_ops(tmp_path, capsys):
    out = tmp_path / "results.json"
    asked = ("iou_1000", "nms_1000_clustered", "multilevel_roi_align_forward_backward", "roi_pool_forward")
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
    assert peers.main(["--quick", "--out", str(out), "--cases", "predict_1x480x640_channels_last"]) == 0
    (result,) = json.loads(out.read_text())["results"]
    facts = result["facts"]
    assert facts["proposals"] > 100 and facts["detections"] == facts["detections of torchvision"] > 10


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
