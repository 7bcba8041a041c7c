"""Scores of semantic segmentation told: table, report, confusion matrix, pictures of predictions."""

import functools
import json
import re

import numpy as np
import pytest
import tyro
from PIL import Image

from configs.segmenters import FCNVGG16
from segjax.data.source import Vocabulary
from segjax.evaluation.confusion import class_iou
from segjax.evaluation.segmentation_evaluator import SegmentationEvaluator
from segjax.evaluation.segmentation_text import segmentation_table
from segjax.types import IGNORE
from tests.evaluation.labelled import CLASSES, LabelledSource, batch_of, drawn_map, spoiled
from tests.train.test_report import assert_balanced, assert_self_contained
from train import predict
from train.report_segmentation import HeatTable, write_segmentation_report
from train.segmentation import SegmentationPredictions, SegmentationTask


@pytest.fixture
def source(rng):
    return LabelledSource([drawn_map(rng, 40, 50) for _ in range(4)], classes=(*CLASSES, "<absent>"))


@pytest.fixture
def evaluated(rng, source):
    scores = SegmentationEvaluator(source, classes=source.classes, keep=2)
    scores.update(*batch_of([spoiled(rng, source.label_map(i)) for i in range(4)], shape=(64, 64), classes=4))
    return scores


def test_table_has_scores_classes_and_ones_own(evaluated):
    results = evaluated.compute()
    cleaned = {f"cleaned_{name}": value for name, value in results.items()}
    own = {"road_length": 12.5, "images_per_second": 20.0}
    table = segmentation_table(results | cleaned | own, evaluated.source.classes)
    words = [line.split() for line in table.splitlines()]
    main = ["mIoU", "pixel_accuracy", "class_accuracy", "frequency_IoU", "boundary_F"]
    assert main in words
    assert ["pixels", *(f"{results[name]:.3f}" for name in main)] in words
    assert ["cleaned", *(f"{results[name]:.3f}" for name in main)] in words
    disc = [f"{results[f'{name}/disc']:.3f}" for name in ("IoU", "accuracy", "boundary_F")]
    assert ["disc", *disc, *disc] in words and ["<absent>", *"––––––"] in words
    assert ["road_length", "12.500"] in words and "images_per_second" not in table


def test_report_holds_everything(tmp_path, evaluated):
    results = evaluated.compute() | {"cleaned_mIoU": 0.8125, "road_length": 12.5}
    (tmp_path / "metrics.jsonl").write_text('{"step": 9, "eval/mIoU": 0.1, "eval/road_length": 40}')
    page = write_segmentation_report(tmp_path, evaluated.source, results, evaluated, facts={"Stride": 8}).read_text()
    assert_self_contained(page)
    assert_balanced(page)
    assert f"<dt>mIoU</dt><dd>{results['mIoU']:.3f}</dd>" in page and "<dt>Images evaluated</dt><dd>4</dd>" in page
    assert "<dt>cleaned_mIoU</dt><dd>0.812</dd>" in page and "<dt>Stride</dt><dd>8</dd>" in page
    row = f'<td class="text">mIoU</td><td>{results["mIoU"]:.3f}</td><td>0.812</td>'
    assert row in page and "<th>Cleaned up</th>" in page
    assert '<td class="text">road_length</td><td>12.500</td>' in page
    absent = '<td class="text">&lt;absent&gt;</td><td>0.000</td><td>–</td><td>–</td><td>–</td>'
    assert absent in page
    assert [title for title in re.findall(r"<figcaption>([^<]+)", page) if "mean IoU" in title] == [
        f"Image im{image.score.sample}: mean IoU {image.score.miou:.3f}, {image.score.wrong:.1%} of pixels wrong"
        for images in evaluated.best_and_worst()[::-1]
        for image in images
    ]
    assert page.index('id="worst-images"') < page.index('id="best-images"') and page.count('class="rows"') == 2


def test_report_without_images_or_files(tmp_path, source):
    evaluator = SegmentationEvaluator(source, classes=source.classes)
    page = write_segmentation_report(tmp_path, source, evaluator.compute(), evaluator).read_text()
    assert_self_contained(page)
    assert '<td class="text">mIoU</td><td>–</td>' in page
    assert 'id="worst-images"' not in page and 'id="training"' not in page


def test_heat_table_is_in_percent_of_each_row():
    matrix = np.array([[900, 100, 0], [0, 0, 0], [4, 0, 996]])
    html = HeatTable(matrix, ("a", "<b>", "c")).html()
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in html.split("<tr>")[2:]]
    assert rows == [["90", "10", ""], ["–", "–", "–"], ["", "", "100"]]
    assert "<b>" not in html and 'title="a taken for &lt;b&gt;: 100 of 1,000 pixels"' in html
    depths = [int(depth) for depth in re.findall(r"--depth: (\d+)%", html)]
    assert depths == [90, 32, 0, 6, 0, 100]
    assert html.count('class="right deep"') == 2 and html.count('class="wrong"') == 4


def test_predictions_are_written_as_they_come(tmp_path, rng, source):
    vocabulary = Vocabulary(source.classes)
    shown = SegmentationPredictions(source, vocabulary, tmp_path)
    predicted = [np.where(m == IGNORE, 0, m).astype(np.uint8) for m in (source.label_map(0), source.label_map(1))]
    shown.update(*batch_of([predicted[0], None], shape=(64, 64), classes=4))
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["00000_im0.png", "00000_im0_classes.png"]
    shown.update(*batch_of([predicted[1]], shape=(64, 64), classes=4, samples=[1]))
    for i in range(2):
        ids = Image.open(tmp_path / f"0000{i}_im{i}_classes.png")
        np.testing.assert_array_equal(np.asarray(ids), predicted[i])
        picture = np.asarray(Image.open(tmp_path / f"0000{i}_im{i}.png"))
        assert picture.shape[0] > 40 * 11 and picture.shape[1] == 50 * 11, "enlarged, with a legend below"
    assert shown.compute() == {} and shown.write().startswith("2 images; pictures and maps of class ids")
    with pytest.raises(ValueError, match="sample 1 was evaluated before"):
        shown.update(*batch_of([predicted[1]], shape=(64, 64), classes=4, samples=[1]))
    with pytest.raises(ValueError, match="logits of 3 classes, and there are 4"):
        shown.update(*batch_of([np.minimum(predicted[0], 2)], shape=(64, 64), samples=[2]))


def test_options_of_predictions_that_are_given():
    parse = functools.partial(tyro.cli, predict.Arguments)
    assert predict.given(parse(args=["run", "image.png"])) == {}
    found = predict.given(parse(args=["run", "image.png", "--flip", "--scales", "0.5", "1", "--score", "0"]))
    assert found == {"flip": True, "scales": (0.5, 1.0), "score": 0.0}


@pytest.mark.parametrize("clean_up", ["", "slic"])
def test_task_scores_tells_and_saves(tmp_path, rng, clean_up):
    source = LabelledSource([drawn_map(rng, 40, 50) for _ in range(2)])
    task = SegmentationTask(FCNVGG16(clean_up=clean_up), source, Vocabulary(CLASSES))
    batch = batch_of([spoiled(rng, source.label_map(i)) for i in range(2)], shape=(64, 64))
    for evaluator in task.evaluators:
        evaluator.update(*batch)
    results = {name: value for evaluator in task.evaluators for name, value in evaluator.compute().items()}
    shown = [f"{results[name]:.3f}" for name in ("mIoU", "pixel_accuracy", "boundary_F")]
    headline = "mIoU {}, pixel accuracy {}, boundary F {}".format(*shown)
    cleaned = f", cleaned mIoU {results['cleaned_mIoU']:.3f}" if clean_up else ""
    assert task.headline(results) == headline + cleaned
    assert shown[0] in task.table(results)
    (file,) = task.save(tmp_path, "val")
    saved = json.loads(file.read_text())
    assert file.name == "confusion_val.json" and saved["classes"] == list(CLASSES)
    matrix = np.array(saved["confusion"])
    assert results["mIoU"] == pytest.approx(np.nanmean(class_iou(matrix)))
    assert "Stride" in task.report(tmp_path, results, {"Stride": 8}).read_text()
    with pytest.raises(ValueError, match="class 1 is 'cat' in the model and 'disc' in the data set"):
        SegmentationTask(FCNVGG16(), source, Vocabulary(("background", "cat", "square")))
