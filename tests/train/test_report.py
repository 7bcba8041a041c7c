"""The report: self-contained, holding the numbers it was given, and readable whatever is missing."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from segjax.data.source import Problems
from segjax.evaluation.coco_ap import CocoAP, PrecisionRecall
from segjax.evaluation.detection_evaluator import DetectionEvaluator
from tests.evaluation.listed import ListedSource, feed, objects
from tests.evaluation.posed import JOINTS, feed_posed, posed_source
from train.charts import POINTS, Chart, Line, thin
from train.report import (
    Code,
    Facts,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    problems_section,
    read_metrics,
    render,
    training_sections,
    write_report,
)
from train.report_detection import best_thresholds, precision_recall_section, write_detection_report
from train.report_facts import duration, machine_facts, training_facts

A, B = [0, 0, 40, 40], [60, 50, 100, 90]
VOID = {"meta", "img", "line", "circle", "polyline", "br"}


@pytest.fixture
def source():
    return ListedSource([objects([A, B], [0, 1]), objects([A], [0]), objects(), objects([B], [1])])


@pytest.fixture
def run(tmp_path):
    rows = [
        {"step": s, "loss": 10 / s, "loss/box": 4 / s, "loss/class": 6 / s, "lr": 0.01, "images_per_second": 20.0}
        for s in range(1, 51)
    ]
    rows.append({"step": 50, "eval/AP": 0.25, "eval/AP50": 0.5, "eval/AP_small": None, "eval/AP/ant": 0.1})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"name": "tiny_recipe", "recipe": {"batch_size": 4, "optim": {"lr": 0.0123}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def assert_self_contained(page: str) -> None:
    """Nothing is fetched: every source is a data URI, every link an anchor, and there is no script or style import."""
    assert all(address.startswith("data:image/") for address in re.findall(r'\bsrc="([^"]*)', page))
    assert all(address.startswith("#") for address in re.findall(r'\bhref="([^"]*)', page))
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)


def assert_balanced(page: str) -> None:
    """Every element that is opened is closed, in order."""
    open_tags = []
    for closing, name, end in re.findall(r"<(/?)([a-z0-9]+)(?:\"[^\"]*\"|[^>\"])*?(/?)>", page):
        if closing:
            assert open_tags.pop() == name
        elif not end and name not in VOID:
            open_tags.append(name)
    assert open_tags == []


def evaluated(source, found):
    return feed(CocoAP(source, classes=source.classes), source, found)


def test_detection_report_holds_everything(source, run):
    source.problems.add("zero-size box", 7, "image 7, annotation 3 is 0 x 4", action="skipped", annotation_id=3)
    evaluator = evaluated(source, [[(A, 0.9, 0)], [(A, 0.8, 0)], [(A, 0.7, 2)], [(B, 0.6, 1)]])
    scores = evaluator.compute() | {"VOC_AP": 0.4321, "images_per_second": 12.0}
    path = write_detection_report(run, source, scores, evaluator, facts={"Compilations": 3}, pictures=2)
    assert path == run / "report.html"
    page = path.read_text()
    assert_self_contained(page)
    assert_balanced(page)
    assert "<h1>tiny_recipe</h1>" in page and "0.0123" in page
    for name in list(scores)[:12]:
        assert (
            f'<td class="text">{name}</td><td>{"–" if np.isnan(scores[name]) else f"{scores[name]:.3f}"}</td>' in page
        )
    assert (
        "0.432" in page and "<dt>Compilations</dt><dd>3</dd>" in page and "<dt>Training time</dt><dd>10 s</dd>" in page
    )
    ant, cat = f"{scores['AP/ant']:.3f}", "–"
    assert f'<td class="text">ant</td><td>{ant}</td>' in page and f'<td class="text">cat</td><td>{cat}</td>' in page
    assert "zero-size box (skipped)" in page and "image 7, annotation 3 is 0 x 4" in page
    assert "Image 1: 1 of 2 objects missed, 0 wrong detections" in page
    assert "Image 3: no objects, 1 wrong detections" in page
    assert "Image 2: 0 of 1 objects missed, 0 wrong detections" in page
    assert page.index('id="worst-images"') < page.index("Image 1: 1 of 2") < page.index('id="best-images"')
    assert len(re.findall("<img ", page)) == 4 and len(re.findall("<svg ", page)) == 6


def test_report_without_detections(source, run):
    evaluator = evaluated(source, [[], [], [], []])
    page = write_detection_report(run, source, evaluator.compute(), evaluator).read_text()
    assert_self_contained(page)
    assert '<td class="text">AP</td><td>0.000</td>' in page and "Image 1: 2 of 2 objects missed" in page
    assert "None found." in page


def test_report_without_objects_images_or_files(tmp_path):
    source = ListedSource([objects()])
    for evaluator in (evaluated(source, [[]]), CocoAP(source, classes=source.classes)):
        page = write_detection_report(tmp_path, source, evaluator.compute(), evaluator).read_text()
        assert_self_contained(page)
        assert '<td class="text">AP</td><td>–</td>' in page and page.count("Nothing recorded.") == 2
        assert 'id="training"' not in page and 'id="config"' not in page


@pytest.mark.parametrize("sigmas", [None, JOINTS.sigmas])
def test_report_of_masks_joints_and_a_score_of_ones_own(tmp_path, rng, sigmas):
    source = posed_source(rng, joints=JOINTS._replace(sigmas=sigmas))
    kinds = ("boxes", "masks", "keypoints")
    evaluator = feed_posed(DetectionEvaluator(source, classes=source.classes, kinds=kinds), rng, source, noise=1.0)
    results = evaluator.compute() | {"angle_error": 12.5, "images_per_second": 20.0}
    (tmp_path / "metrics.jsonl").write_text('{"step": 9, "eval/AP": 0.1, "eval/mask_AP": 0.2, "eval/angle_error": 40}')
    page = write_detection_report(tmp_path, source, results, evaluator, pictures=2).read_text()
    assert_self_contained(page)
    assert_balanced(page)
    sides = [results[f"{prefix}AP75"] for prefix in ("", "mask_", "keypoint_")]
    assert "<th>Boxes</th><th>Masks</th><th>Keypoints</th>" in page
    assert "".join(['<td class="text">AP75</td>', *(f"<td>{value:.3f}</td>" for value in sides)]) in page
    assert '<td class="text">AR10</td>' in page and '<td class="text">AR50</td><td>–</td><td>–</td>' in page
    assert '<td class="text">angle_error</td><td>12.500</td>' in page
    assert f"<dt>mask_AP</dt><dd>{results['mask_AP']:.3f}</dd>" in page
    assert all(f"<th>{name}</th>" in page for name in ("AP50", "mask_AP50", "keypoint_AP50", "VOC_AP"))
    titles = re.findall(r"<figcaption>([^<]+)</figcaption>", page)
    curves = ["Boxes, IoU 0.50", "Boxes, IoU 0.75", "Masks, IoU 0.50", "Masks, IoU 0.75", "Keypoints, OKS 0.50"]
    assert [title for title in titles if "0." in title][: len(curves)] == curves and "angle_error" in titles
    assert ("with a sigma of 0.05 for every joint" in page) == (sigmas is None)
    assert "Found joints are drawn from a heat-map score of 2 on" in page


def test_another_task_brings_its_own_sections(tmp_path):
    class Matrix:
        def html(self):
            return "<table><tr><td>confused</td></tr></table>"

    sections = [Section("Confusion", [Text("Rows are the truth."), Matrix()])]
    page = write_report(tmp_path, name="fcn", facts={"mIoU": 0.605}, sections=sections).read_text()
    assert_balanced(page)
    assert 'href="#confusion"' in page and "confused" in page and "<dd>0.605</dd>" in page


def test_text_is_escaped():
    bad = '<x-y title="&">'
    blocks = [
        Table((bad,), [(bad,)]),
        Facts({bad: bad}),
        Text(bad),
        Code(bad, bad),
        Chart(bad, [Line(bad, [0], [1])], bad),
    ]
    blocks += [Chart("two", [Line(bad, [0], [1])] * 2, "x"), Pictures([Picture(np.zeros((2, 2, 3), np.uint8), bad)])]
    page = render(bad, [Section(bad, blocks)])
    assert "<x-y" not in page and page.count("&lt;x-y title=&quot;&amp;&quot;&gt;") == 21


def test_pictures_survive_and_large_ones_shrink():
    image = np.zeros((100, 2400, 3), np.uint8)
    image[:, 1200:] = 255
    html = Pictures([Picture(image, "halves")]).html()
    data = base64.b64decode(re.search(r"base64,([^\"]+)", html).group(1))
    back = np.asarray(Image.open(io.BytesIO(data)))
    assert back.shape == (50, 1200, 3)
    assert back[:, :550].max() < 10 and back[:, 650:].min() > 245


def test_table_shows_numbers_to_three_decimals_and_nan_as_dash():
    html = Table(("a", "b", "c", "d"), [(0.12345, float("nan"), 12345, "text")]).html()
    assert '<td>0.123</td><td>–</td><td>12,345</td><td class="text">text</td>' in html


def test_metrics_of_a_killed_and_resumed_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        '{"step": 10, "loss": 2.0}',
        '{"step": 20, "loss": 9.0}',
        '{"step": 20, "loss": 1.0}',
        '{"step": 20, "eval/AP": 0.5}',
    ]
    path.write_text("\n".join([*lines, '{"step": 30, "lo']))
    assert read_metrics(path) == [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0, "eval/AP": 0.5}]
    assert read_metrics(tmp_path / "absent.jsonl") == []
    path.write_text("\n".join(["nonsense", *lines]))
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 1 is not JSON"):
        read_metrics(path)


def test_training_charts_draw_each_term_and_leave_out_classes(run):
    (section,) = training_sections(read_metrics(run / "metrics.jsonl"))
    losses, scores, rate, speed = section.blocks[0].charts
    assert [line.name for line in losses.lines] == ["total", "box", "class"] and losses.log_y
    np.testing.assert_allclose(losses.lines[1].y, 4 / np.arange(1, 51))
    assert [line.name for line in scores.lines] == ["AP", "AP50", "AP_small"] and list(scores.lines[0].y) == [0.25]
    assert len(rate.lines[0].x) == len(speed.lines[0].x) == 50
    (section,) = training_sections(read_metrics(run / "metrics.jsonl"), scores=("AP50", "absent"))
    assert [line.name for line in section.blocks[0].charts[1].lines] == ["AP50"]
    assert training_sections([]) == []


def points(svg: str) -> np.ndarray:
    return np.asarray([[float(v) for v in p.split(",")] for p in re.search(r' points="([^"]+)"', svg).group(1).split()])


def test_chart_places_points_in_proportion():
    drawn = points(Chart("t", [Line("l", [0, 5, 10], [0, 0.5, 1])], "x", y_range=(0, 1)).html())
    np.testing.assert_allclose(drawn[1], (drawn[0] + drawn[2]) / 2, atol=0.11)
    assert drawn[2, 0] > drawn[0, 0] and drawn[2, 1] < drawn[0, 1]  # up is a smaller y in SVG
    drawn = points(Chart("t", [Line("l", [0, 1, 2], [0.01, 0.1, 1])], "x", log_y=True).html())
    np.testing.assert_allclose(drawn[1], (drawn[0] + drawn[2]) / 2, atol=0.11)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[3.0], [2.0, 2.0], [np.nan, 1.0], [np.inf, 0.5, -np.inf]])
def test_chart_of_degenerate_values_is_finite(values, log):
    svg = Chart("t", [Line("l", range(len(values)), values)], "x", log_y=log).html()
    assert np.isfinite(points(svg)).all() and "nan" not in svg and "inf" not in svg


def test_chart_with_nothing_says_so():
    assert "Nothing recorded." in Chart("t", [], "x").html()
    assert "Nothing recorded." in Chart("t", [Line("l", [1], [np.nan])], "x").html()
    assert "Nothing recorded." in Chart("t", [Line("l", [1], [-1.0])], "x", log_y=True).html()


def test_long_lines_are_averaged():
    x, y = thin(np.arange(POINTS * 3), np.tile([0.0, 1.0, 2.0], POINTS))
    assert len(x) == POINTS
    np.testing.assert_allclose(y, 1.0)
    np.testing.assert_allclose(x, np.arange(POINTS) * 3 + 1)


def curves_of(precision, scores, classes):
    return PrecisionRecall(0.5, classes, np.linspace(0, 1, 3), np.asarray(precision, float), np.asarray(scores, float))


def test_best_threshold_by_hand():
    nan = np.nan
    curves = curves_of([[1, 0.8, 0.5], [nan] * 3, [0, 0, 0]], [[0.9, 0.6, 0.2], [nan] * 3, [nan] * 3], ("a", "b", "c"))
    found = best_thresholds(curves)  # F1 of a: 0, 2 * .8 * .5 / 1.3 = .615, 2 * .5 / 1.5 = .667
    assert found["a"] == pytest.approx((0.2, 2 / 3))
    assert np.isnan(found["b"]).all() and np.isnan(found["c"]).all()


def test_precision_recall_of_many_classes_draws_mean_best_and_worst():
    names = tuple(f"c{k}" for k in range(20))
    precision = np.tile(np.linspace(0, 1, 20)[:, None], 3)
    note, charts = precision_recall_section({"boxes": [curves_of(precision, precision, names)]}).blocks
    (chart,) = charts.charts
    assert note.text == "Of the classes, the 4 best and the 4 worst at each IoU are drawn."
    assert [line.name for line in chart.lines] == [
        "mean over classes",
        *("c19", "c18", "c17", "c16"),
        *("c3", "c2", "c1", "c0"),
    ]
    np.testing.assert_allclose(chart.lines[0].y, 0.5)


def test_problems_are_counted_by_kind_with_the_first_three():
    problems = Problems()
    for i in range(5):
        problems.add("cut short", i, f"image {i}", action="skipped")
    html = problems_section(problems).blocks[0].html()
    assert "<td>5</td>" in html and "image 0; image 1; image 2; ..." in html and "image 3" not in html


def test_training_facts():
    rows = [{"step": 10, "images_per_second": 5.0}, {"step": 30, "images_per_second": 20.0}, {"step": 30, "eval/AP": 1}]
    assert training_facts(rows, batch_size=4) == {"Steps": 30, "Training time": "12 s", "Images a second": "12.5"}
    assert "Training time" not in training_facts(rows, batch_size=None)
    assert training_facts([], batch_size=4) == {}


@pytest.mark.parametrize(
    ("seconds", "text"), [(48.4, "48 s"), (59.9, "1 min 0 s"), (312, "5 min 12 s"), (11100, "3 h 5 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_machine_facts_name_the_devices():
    facts = machine_facts()
    assert facts["Devices"] == "8 x cpu" and float(facts["Peak host memory"].split()[0]) > 0
