"""The comparison of windows with the dense form, on a small image: it runs, its numbers agree, it draws."""

import json

import pytest

pytest.importorskip("matplotlib")
from benchmarks import window_detection
from configs.overfeat_scenes import RECIPE
from segjax.ops.windows import count_windows


def test_it_measures_and_draws(tmp_path, capsys):
    out, plot = tmp_path / "found.json", tmp_path / "found.png"
    arguments = ["--quick", "--strides", "16", "8", "--chunk", "7", "--out", str(out), "--plot", str(plot)]
    assert window_detection.main(arguments) == 0
    few, many = json.loads(out.read_text())["results"]
    for stride, result in ((16, few), (8, many)):
        levels = count_windows((32, 40), RECIPE.model.layout()._replace(stride=stride))
        assert result["windows_by_level"] == list(levels) and result["windows"] == sum(levels)
        assert result["largest_relative_difference"] < 1e-4 and len(result["ratios"]) == 1
        assert result["windows_gflops"] > result["convolutional_gflops"] > 0
    # Windows cost in proportion to their number, the levels hardly more for more windows.
    assert many["windows_gflops"] / few["windows_gflops"] == pytest.approx(many["windows"] / few["windows"])
    assert many["convolutional_gflops"] < 2 * few["convolutional_gflops"]
    assert plot.read_bytes().startswith(b"\x89PNG") and "by processor" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--strides", "8", "0"], ["--strides"]])
def test_what_cannot_be_measured_is_refused(arguments):
    with pytest.raises(SystemExit, match="must be at least 1, and there must be a stride"):
        window_detection.main(arguments)
