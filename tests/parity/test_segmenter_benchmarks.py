"""The comparison of models of semantic segmentation with torchvision's runs from end to end."""

import json
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")

from benchmarks import cases, machine, peers, segmenter_cases  # noqa: E402
from segjax.types import IGNORE  # noqa: E402

CPU = cases.Setting("cpu", "float32")


def test_quick_runs_give_the_same_logits_and_losses(tmp_path):
    """The cheapest model, in a process of its own: with types checked, JAX cannot describe a batch as arguments."""
    out = tmp_path / "results.json"
    asked = ["--quick", "--out", str(out), "--cases", "lraspp"]
    subprocess.run([sys.executable, "-m", "benchmarks.peers", *asked], check=True, cwd=machine.ROOT)
    predicted, trained = json.loads(out.read_text())["results"]
    assert predicted["differences"]["logits"] <= 1e-3 and predicted["facts"]["pixels of the same class"] > 0.99
    assert set(trained["differences"]) == {"cross_entropy"} and max(trained["differences"].values()) <= 1e-3
    assert trained["facts"]["trained parameters"] == 3_221_538
    assert trained["facts"]["loss"] == pytest.approx(trained["facts"]["loss of torchvision"], rel=0.01)


def test_cases_are_a_table():
    names = [case.name for case in peers.choose(peers.Options())]
    assert len(set(names)) == len(names)
    for title, segmenter in segmenter_cases.SEGMENTERS.items():
        assert hasattr(torchvision.models.segmentation, segmenter.name)
        layouts = 2 if segmenter.channels_last else 1
        assert sum(name.startswith(f"{title}_predict_") for name in names) == layouts
        assert sum(name.startswith(f"{title}_train_") for name in names) == layouts
        assert all(side % 32 == 0 for side in (*segmenter.predict, *segmenter.train))


def test_channels_last_changes_where_numbers_lie_and_none_of_them():
    plain, turned = (segmenter_cases.make_images(CPU, 2, (64, 96), channels_last=last).images for last in (False, True))
    np.testing.assert_array_equal(plain, turned)
    assert plain.is_contiguous() and turned.is_contiguous(memory_format=torch.channels_last)


def test_both_libraries_are_given_the_same_images():
    data = segmenter_cases.make_images(CPU, 2, (64, 96))
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images = (data.images * std + mean).movedim(1, -1)
    np.testing.assert_allclose(images, data.batch.images, atol=1e-6)
    np.testing.assert_array_equal(data.labels, data.batch.label_map)
    assert (data.labels == IGNORE).any() and len(torch.unique(data.labels)) > 5
