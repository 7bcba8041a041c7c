"""The ladder's table, its place in a page, and its plot, of rows written by hand."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import ladder_plot
from benchmarks.ladder_table import table, write_between

ROWS = [
    {"name": "low", "scores": {"m": 0.25}, "inference": {"images": 2, "flops": 4e9, "seconds": [0.02, 0.04, 0.06]}},
    {"name": "gone", "failed": "it broke."},
    {
        "name": "high",
        "scores": {"m": 0.5, "f": None},
        "parameters": 1_250_000,
        "trained": {"seconds": 90.0},
        "training": {"images": 8, "flops": 8e9, "memory_mib": 12.34, "seconds": []},
    },
]


def test_table_has_the_best_first_and_dashes_for_what_is_not_known():
    text, failures = table(ROWS, {"M": "m", "F": "f"}).split("\n\n")
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert lines[0][:4] == ["system", "M", "F", "parameters"] and [line[0] for line in lines[2:]] == [
        "high",
        "low",
        "gone",
    ]
    assert lines[2][1:] == ["0.500", "–", "1.25 M", "–", "1", "–", "–", "–", "–", "12.3", "1.5 min"]
    assert lines[3][1:] == ["0.250", "–", "–", "2", "–", "20.0 ms [15.0 ms, 25.0 ms]", *"–––––"]
    assert failures == "- gone failed: it broke."


def test_images_of_different_sizes_have_a_column():
    rows = [{"name": n, "inference": {"height": h, "width": 160, "images": 1}} for n, h in (("a", 128), ("b", 160))]
    both, one = table(rows, {"AP": "AP"}), table([*rows[:1], {"name": "c"}], {"AP": "AP"})
    assert " image |" in both and "128x160" in both and "160x160" in both
    assert " image |" not in one and "128x160" not in one


def test_a_page_without_a_place_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- end of t --> <!-- t -->")
    with pytest.raises(ValueError, match="put the lines <!-- t --> and <!-- end of t -->"):
        write_between(page, "t", "text")
    page.write_text("a<!-- t -->b<!-- end of t -->c")
    write_between(page, "t", "one")
    write_between(page, "t", "two")
    assert page.read_text() == "a<!-- t -->\n\ntwo\n\n<!-- end of t -->c"


def test_nothing_is_drawn_of_rows_without_score_or_time(tmp_path):
    rows = [ROWS[1], {"name": "untimed", "scores": {"m": 1.0}}, {"name": "unscored", "inference": ROWS[0]["inference"]}]
    assert not ladder_plot.plot(rows, tmp_path / "p.png", title="t", heading="M", name="m")
    assert not list(tmp_path.iterdir())


def test_front_is_what_no_other_point_beats(rng):
    x, y = rng.integers(0, 6, (2, 40)).astype(float)
    beaten = [any((a <= c and b > d) or (a < c and b >= d) for a, b in zip(x, y)) for c, d in zip(x, y)]
    found = ladder_plot.front(x, y)
    assert {(x[i], y[i]) for i in found} == {(c, d) for c, d, worse in zip(x, y, beaten) if not worse}
    assert list(x[found]) == sorted(set(x[found]))


def test_labels_cover_neither_markers_nor_each_other(rng):
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    x, y = 10 * 1.2 ** rng.normal(size=12), 0.6 + 0.05 * rng.normal(size=12)
    ladder_plot.frame(axes, x, y)
    names = [f"system number {i}" for i in range(12)]
    texts = ladder_plot.place_labels(axes, x, y, np.array([x, x]), [60.0] * 12, names)
    boxes = [text.get_window_extent() for text in texts]
    assert sorted(text.get_text() for text in texts) == sorted(names)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    points = axes.transData.transform(np.column_stack([x, y]))
    assert not any(box.contains(*point) for box in boxes for point in points)
    assert all(axes.get_window_extent().contains(*corner) for box in boxes for corner in box.get_points())
