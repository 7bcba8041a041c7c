"""The parts of the comparison that need no torch: statistics, sampling, tables, the machine."""

import getpass
import pathlib
import platform

import numpy as np
import pytest

from benchmarks import machine, peers
from benchmarks.table import format_seconds, format_spread, format_table
from benchmarks.timing import Summary, Timings, calls_per_sample, interleave, ratios, summarize


def test_summary_is_median_and_quartiles():
    assert summarize([5.0, 1.0, 3.0, 2.0, 4.0]) == Summary(3.0, 2.0, 4.0)
    assert summarize([7.0]) == Summary(7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="values is empty"):
        summarize([])


def test_ratios_pair_neighbours_and_favour_the_faster():
    assert ratios(Timings(ours=[1.0, 2.0], theirs=[3.0, 1.0])) == [3.0, 0.5]
    with pytest.raises(ValueError, match="zip"):
        ratios(Timings([1.0], [1.0, 2.0]))


def test_short_calls_are_timed_in_groups():
    assert [calls_per_sample(s, at_least=0.05) for s in (1.0, 0.05, 0.02, 0.001)] == [1, 1, 3, 50]
    assert calls_per_sample(0.0, at_least=0.0) == 1


def test_samples_alternate_and_warm_up_is_left_out():
    order = []
    timings = interleave(lambda: order.append("a"), lambda: order.append("b"), repeats=3, at_least=0.0, warm_up=1)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab"
    assert len(timings.ours) == len(timings.theirs) == 3


def test_times_go_to_the_one_who_took_them(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def work(seconds):
        clock[0] += seconds

    timings = interleave(lambda: work(0.5), lambda: work(0.125), repeats=2, at_least=0.25)
    assert timings == Timings([0.5, 0.5], [0.125, 0.125])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.345, "2.35 s"), (0.0123, "12.3 ms"), (0.5, "500 ms"), (4.2e-6, "4.20 us"), (3e-8, "0.03 us"), (75.0, "75.0 s")],
)
def test_seconds_have_a_unit(seconds, text):
    assert format_seconds(seconds) == text


def test_table_lines_up():
    spread = format_spread(Summary(1.5, 1.25, 2.0), seconds=False)
    lines = format_table(["case", "ratio"], [["nms", spread], ["iou of many", "2.00"]]).splitlines()
    assert lines[0] == "| case        |             ratio |"
    assert lines[2] == "| nms         | 1.50 [1.25, 2.00] |"
    assert lines[3] == "| iou of many |              2.00 |"
    assert {len(line) for line in lines} == {len(lines[0])}
    with pytest.raises(ValueError, match="1 cells under a header of 2"):
        format_table(["case", "ratio"], [["nms"]])


def test_machine_is_described_without_names_and_paths():
    found = machine.describe_machine()
    assert found["cores"] >= 1 and found["memory_gib"] > 0 and found["python"] == platform.python_version()
    assert "jax" in found["packages"]
    words = str(found).split()
    assert platform.node() not in words and getpass.getuser() not in words and str(machine.ROOT) not in str(found)


def test_cpu_model_is_read_from_cpuinfo():
    assert machine.cpu_model("processor\t: 0\nmodel name\t: Fast CPU: 9\nmodel name\t: Other\n") == "Fast CPU: 9"
    assert machine.cpu_model("") != ""


def test_command_line_tells_no_absolute_path():
    told = machine.command_line("benchmarks.peers", ["--out", "/home/me/a b.json", "--cases", "nms"])
    assert told == "python -m benchmarks.peers --out 'a b.json' --cases nms"
    assert machine.command_line("m", ["--out=/home/me/x.json"]) == "python -m m --out=x.json"


def test_without_torch_one_sentence_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert peers.main([]) == 1
    assert "`make parity` installs them" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="repeats must be at least 1, got 0"):
        peers.main(["--repeats", "0"])


def test_a_result_becomes_a_row():
    result = {
        "case": "nms_1000",
        "precision": "bfloat16",
        "segjax_seconds": [0.001, 0.002, 0.003],
        "torchvision_seconds": [0.004] * 3,
        "ratios": [4.0, 2.0, 4 / 3],
        "compile_seconds": 1.5,
        "load_average_before": 0.25,
        "cores_of_others": 1.5,
    }
    found = peers.row(result)
    assert len(found) == len(peers.HEADER)
    assert found[0] == "nms_1000 bfloat16" and found[1].startswith("2.00 ms [1.50 ms") and found[3].startswith("2.00 [")
    assert found[-2:] == ["0.25", "1.50"] and peers.row(result | {"cores_of_others": None})[-1] == "?"


def test_cores_of_others_are_what_is_busy_beyond_this_process(monkeypatch):
    readings = iter([(10.0, 100.0, 5.0), (14.0, 107.0, 8.0)])
    monkeypatch.setattr(machine.CoresOfOthers, "_read", staticmethod(lambda: next(readings)))
    assert machine.CoresOfOthers().average() == 1.0
    monkeypatch.setattr(machine.CoresOfOthers, "_read", staticmethod(lambda: None))
    assert machine.CoresOfOthers().average() is None


def test_busy_time_leaves_out_idle_and_waiting(monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    assert machine.busy_seconds("cpu  100 20 30 9000 800 4 6 40 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n") == 2.0


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="Linux counts resident pages so")
def test_peak_is_what_a_call_holds_for_a_while():
    def run():
        np.ones((40, 2**20), np.uint8)

    assert 35 < machine.peak_mib(run) < 60
    assert machine.peak_mib(lambda: None) < 10


def test_peak_is_unknown_where_the_system_does_not_count_it(monkeypatch):
    def refuse(path, text):
        raise PermissionError(path)

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    assert machine.peak_mib(lambda: None) is None
