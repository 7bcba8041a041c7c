"""The comparison of windows with the whole image, on a small one: it runs, its numbers agree, it draws."""

import json

import pytest

pytest.importorskip("matplotlib")
from benchmarks import sliding_window, window_forms


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


def test_results_that_are_there_are_replaced_whole(tmp_path, monkeypatch):
    out, report = tmp_path / "deep" / "found.json", {"results": []}
    monkeypatch.setattr(window_forms, "row", lambda result: [str(result)])
    window_forms.measure_strides([8, 4], lambda stride: {"stride": stride}, report, out)
    assert json.loads(out.read_text()) == {"results": [{"stride": 8}, {"stride": 4}]}
    before = out.read_bytes()

    def fail(path, text):
        path.open("w").close()
        raise OSError("the disk is full")

    monkeypatch.setattr(type(out), "write_text", fail)
    with pytest.raises(OSError, match="the disk is full"):
        window_forms.measure_strides([2], lambda stride: {"stride": stride}, report, out)
    assert out.read_bytes() == before
