"""The comparison of single-shot detectors with torchvision's runs from end to end, and trains the same parameters."""

import json
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchvision")

from benchmarks import detector_cases, detectors, machine  # noqa: E402
from benchmarks.single_shot_detectors import SINGLE_SHOT  # noqa: E402
from segjax.pretrained import from_torchvision  # noqa: E402
from train.state import split  # noqa: E402

CPU = detectors.CPU


def test_quick_runs_find_the_same_objects_and_have_the_same_losses(tmp_path):
    """One of each kind, in a process of its own: with types checked, JAX cannot describe a batch as arguments."""
    out = tmp_path / "results.json"
    asked = ["--quick", "--out", str(out), "--cases", "ssdlite320_predict", "ssdlite320_train", "fcos_train"]
    subprocess.run([sys.executable, "-m", "benchmarks.peers", *asked], check=True, cwd=machine.ROOT)
    results = {result["case"]: result for result in json.loads(out.read_text())["results"]}
    fcos, *predicted, ssdlite = (results.pop(name) for name in sorted(results))
    assert not results and len(predicted) == 2
    for result in predicted:
        facts = result["facts"]
        assert facts["detections"] == facts["detections of torchvision"] > 30
        assert facts["boxes into NMS"] > facts["detections"]
        assert result["differences"] == {"detections without counterpart": 0.0}
    for result, terms in ((fcos, {"class", "box", "centerness"}), (ssdlite, {"class", "box"})):
        facts = result["facts"]
        assert set(result["differences"]) == terms and max(result["differences"].values()) <= 1e-3
        assert facts["positives"] > 20
        # What is timed has objects anywhere: where one lies in several equal priors, rounding chooses.
        assert facts["loss"] == pytest.approx(facts["loss of torchvision"], rel=1e-2)


@pytest.mark.parametrize("name", SINGLE_SHOT)
def test_both_libraries_train_the_same_number_of_parameters(name, monkeypatch):
    """And those that are frozen are as many: the first layers, none in SSDLite."""
    detector = detector_cases.DETECTORS[name]
    state = detectors.torch_as_drawn(detector).state_dict()
    monkeypatch.setattr(detectors, "random_weights", lambda _: state)
    theirs = detectors.torch_detector(detector, CPU)
    trained, frozen = split(
        from_torchvision(detector.name, state)["params"], tuple(ours for _, ours in detector.frozen)
    )
    count = lambda wanted: sum(p.numel() for p in theirs.parameters() if p.requires_grad == wanted)  # noqa: E731
    assert sum(p.size for p in trained.values()) == count(True) - detector.background(theirs)
    assert sum(p.size for p in frozen.values()) == count(False)
    assert bool(frozen) == (name != "ssdlite320")
