"""The comparison of windows with the whole image, on a small one: it runs, its numbers agree, it draws."""

import json

import pytest

pytest.importorskip("matplotlib")
from benchmarks import sliding_window


def test_it_measures_and_draws(tmp_path, capsys):
    out, plot = tmp_path / "found.json", tmp_path / "found.png"
    arguments = ["--quick", "--strides", "16", "8", "--out", str(out)]
    assert sliding_window.main(arguments) == 0
    report = json.loads(out.read_text())
    assert [(result["stride"], result["windows"]) for result in report["results"]] == [(16, 9), (8, 30)]
    for result in report["results"]:
        assert result["largest_relative_difference"] < 1e-4
        assert len(result["ratios"]) == len(result["windows_seconds"]) == 1
        # Four times the windows are four times the operations, but hardly more of them for the whole image.
        assert result["windows_gflops"] > result["convolutional_gflops"] > 0
    few, many = report["results"]
    assert many["windows_gflops"] / few["windows_gflops"] == pytest.approx(30 / 9)
    assert many["convolutional_gflops"] < 2 * few["convolutional_gflops"]
    # Drawn later, from the file alone.
    assert sliding_window.main(["--strides", "--out", str(out), "--plot", str(plot)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG") and "by processor" in capsys.readouterr().out


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(SystemExit, match="must be at least 1, got 0"):
        sliding_window.main(["--repeats", "0"])
    with pytest.raises(SystemExit, match="nothing is measured; name with --out"):
        sliding_window.main(["--strides"])
