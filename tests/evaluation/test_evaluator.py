"""What evaluators share: class maps, fillers, the way back to original pixels, COCO results."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from segjax.data.segmentations import segmentation_to_mask
from segjax.data.source import ImageInfo
from segjax.evaluation.coco_ap import CocoAP
from segjax.evaluation.evaluator import DetectionCollector, category_ids, check_classes, to_original
from segjax.evaluation.voc_ap import VocAP
from segjax.types import Detections
from tests.evaluation.listed import ListedSource, detections, objects

SIZE = np.asarray([[100, 120]])
BOX = ([0, 0, 50, 40], 0.9, 0)


@pytest.fixture
def source():
    return ListedSource([objects([[0, 0, 50, 40]], [0]), objects(), objects([[10, 20, 30, 60]], [2])])


@pytest.mark.parametrize("evaluator", [CocoAP, VocAP, DetectionCollector])
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("ant", "cat", "bee"), "class 1 is 'cat' in the model and 'bee' in the data set 'listed': evaluate on data"),
        (("ant", "bee"), "the model has 2 classes and .* 'listed' has 3; .* only the data set has is class 2, 'cat'"),
        (("ant", "bee", "cat", "dog"), "the model has 4 classes .* only the model has is class 3, 'dog'"),
        (("background", "ant", "bee", "cat"), "class 0 is 'background' in the model and 'ant' in the data set"),
    ],
)
def test_refuses_another_class_map(source, evaluator, classes, message):
    with pytest.raises(ValueError, match=message):
        evaluator(source, classes=classes)


def test_accepts_the_same_class_map_as_list(source):
    check_classes(["ant", "bee", "cat"], source)


def test_to_original_undoes_the_letterbox():
    info = ImageInfo("a", "a.png", height=300, width=500)
    found = detections([([10, 20, 50, 60], 0.9, 1)])
    back = to_original(found, np.asarray([[150, 200]]), [info])  # halved in height, times 0.4 in width
    np.testing.assert_allclose(back.boxes[0, 0], [25, 40, 125, 120])
    assert back.scores[0, 0] == np.float32(0.9) and back.labels[0, 0] == 1


def test_to_original_takes_device_arrays_and_gives_numpy():
    found = Detections(jnp.ones((2, 3, 4)), jnp.ones((2, 3)), jnp.ones((2, 3), int), jnp.ones((2, 3), bool))
    back = to_original(found, jnp.full((2, 2), 10), [ImageInfo(i, "", 20, 20) for i in range(2)])
    assert isinstance(back.boxes, np.ndarray) and back.boxes.dtype == np.float32
    np.testing.assert_array_equal(back.boxes, np.full((2, 3, 4), 2.0))


def test_to_original_names_bad_sizes():
    with pytest.raises(ValueError, match=r"at least 1 pixel, got .*0"):
        to_original(detections([BOX]), np.asarray([[0, 0]]), [ImageInfo(1, "", 10, 10)])
    with pytest.raises(ValueError, match="got 1 sizes for 2 image infos"):
        to_original(detections([BOX]), SIZE, [ImageInfo(1, "", 10, 10)] * 2)


def test_boxes_are_mapped_back_before_scoring(source):
    halved = detections([([0, 0, 25, 20], 0.9, 0)])
    evaluator = CocoAP(source, classes=source.classes)
    evaluator.update(np.asarray([0]), SIZE // 2, halved)
    assert evaluator.compute()["AP"] == pytest.approx(1.0)
    assert evaluator.results() == [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 40], "score": pytest.approx(0.9)}
    ]


@pytest.mark.parametrize("evaluator", [CocoAP, VocAP])
def test_fillers_are_skipped(source, evaluator):
    name = {CocoAP: "AP", VocAP: "VOC_AP"}[evaluator]
    wrong = ([60, 60, 90, 90], 0.99, 0)
    run = evaluator(source, classes=source.classes)
    run.update(np.asarray([0, -1, -1]), np.asarray([[100, 120], [0, 0], [0, 0]]), detections([BOX], [wrong], [wrong]))
    assert run.compute()[name] == pytest.approx(1.0)
    run.update(np.asarray([-1]), np.asarray([[0, 0]]), detections([wrong]))
    assert len(run.results()) == 1


def test_sizes_in_the_batch_are_kept(source):
    collector = DetectionCollector(source, classes=source.classes)
    assert collector.sizes == {}
    collector.update(np.asarray([0, -1]), np.asarray([[50, 60], [0, 0]]), detections([BOX], [BOX]))
    assert collector.sizes == {0: (50, 60)}


def test_invalid_rows_are_skipped(source):
    found = detections([BOX, ([60, 60, 90, 90], 0.99, 0)])
    found = found.replace(valid=np.asarray([[True, False]]))
    collector = DetectionCollector(source, classes=source.classes)
    collector.update(np.asarray([0]), SIZE, found)
    assert len(collector.collected().scores) == 1


def test_results_use_the_category_ids_of_the_source(source):
    source.category_ids = (7, 9, 90)
    collector = DetectionCollector(source, classes=source.classes)
    collector.update(np.asarray([2]), SIZE, detections([([10, 20, 30, 60], 0.5, 2)]))
    assert collector.results() == [{"image_id": 3, "category_id": 90, "bbox": [10, 20, 20, 40], "score": 0.5}]


def test_classes_that_the_files_do_not_have_get_ids_of_their_own(source):
    source.category_ids = (7, None, 3)
    assert category_ids(source) == (7, 8, 3)
    source.category_ids = (None, None, None)
    assert category_ids(source) == (1, 2, 3)


def test_repeated_and_unknown_samples_are_refused(source):
    collector = DetectionCollector(source, classes=source.classes)
    collector.update(np.asarray([0]), SIZE, detections([BOX]))
    with pytest.raises(ValueError, match="sample 0 was evaluated before"):
        collector.update(np.asarray([0]), SIZE, detections([BOX]))
    with pytest.raises(ValueError, match="sample 3 is not in the data set 'listed' of 3 images"):
        collector.update(np.asarray([3]), SIZE, detections([BOX]))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (([0, 0, 5, 5], 0.9, 3), r"image 1 has a label outside 0..2 \(label 3"),
        (([0, 0, 5, 5], 0.9, -1), "a label outside 0..2"),
        (([0, np.nan, 5, 5], 0.9, 1), "image 1 has a box or score that is not finite"),
        (([0, 0, 5, 5], np.inf, 1), "a box or score that is not finite"),
    ],
)
def test_detections_that_mean_nothing_are_refused(source, found, message):
    with pytest.raises(ValueError, match=message):
        DetectionCollector(source, classes=source.classes).update(np.asarray([0]), SIZE, detections([found]))


def rich(*, size=0.5, **changes) -> Detections:
    """One detection in an image halved in size, its mask the left half of its box, with a joint and extra values."""
    found = detections([([10, 20, 50, 40], 0.9, 0), ([0, 0, 5, 5], 0.8, 1)])
    mask = np.zeros((1, 2, 28, 28), np.float32)
    mask[..., :14] = 1
    given = {
        "valid": np.asarray([[True, False]]),
        "masks": mask,
        "keypoints": np.asarray([[[[12, 22, 3.5], [0, 0, -1]]] * 2], np.float32),
        "extra": {"angle": np.asarray([[31.5, np.nan]], np.float32), "colour": np.full((1, 2, 3), 7, np.float32)},
    }
    return found.replace(**(given | changes))


def collected(source, *batches):
    collector = DetectionCollector(source, classes=source.classes)
    for sample, batch in enumerate(batches):
        collector.update(np.asarray([sample]), SIZE // 2, batch)
    return collector


def test_masks_joints_and_extra_values_reach_original_pixels(source):
    found = collected(source, rich(), rich(valid=np.asarray([[True, True]]))).collected()
    assert found.samples.tolist() == [0, 1, 1]
    inside = segmentation_to_mask(found.masks[0], 100, 120)
    rows, columns = np.nonzero(inside)
    extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(extent, (20, 40, 60, 80), atol=1)
    np.testing.assert_allclose(found.keypoints[0], [[24, 44, 3.5], [0, 0, -1]])
    np.testing.assert_array_equal(found.extra["angle"], np.asarray([31.5, 31.5, np.nan], np.float32))
    assert found.extra["colour"].shape == (3, 3)
    one = found.select(found.samples == 0)
    assert (len(one.masks), len(one.scores), one.keypoints.shape, one.extra["angle"].shape) == (1, 1, (1, 2, 3), (1,))


def test_results_of_all_kinds_can_be_written_as_json(source):
    collector = collected(source, rich(valid=np.asarray([[True, True]])))
    first, second = json.loads(json.dumps(collector.results(), allow_nan=False))
    assert first["keypoints"] == [24, 44, 3.5, 0, 0, -1] and first["bbox"] == [20, 40, 80, 40]
    assert first["segmentation"]["size"] == [100, 120] and isinstance(first["segmentation"]["counts"], str)
    assert first["angle"] == 31.5 and second["angle"] is None and first["colour"] == [7, 7, 7]


def test_a_model_without_masks_has_none(source):
    collector = collected(source, detections([BOX]))
    assert collector.collected().masks is None and collector.collected().extra == {}
    assert set(collector.results()[0]) == {"image_id", "category_id", "bbox", "score"}


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (rich(masks=np.full((1, 2, 28, 28), np.nan, np.float32)), "image 1 has a mask that is not finite"),
        (rich(keypoints=np.full((1, 2, 2, 3), np.inf, np.float32)), "image 1 has a joint that is not finite"),
        (rich(extra={"score": np.ones((1, 2), np.float32)}), "the extra value 'score' has the name of a field"),
    ],
)
def test_masks_and_joints_that_mean_nothing_are_refused(source, batch, message):
    with pytest.raises(ValueError, match=message):
        collected(source, batch)


def test_padding_may_hold_anything(source):
    masks, joints = rich().masks, rich().keypoints
    masks[:, 1], joints[:, 1] = np.nan, np.nan
    assert len(collected(source, rich(masks=masks, keypoints=joints)).results()) == 1


def test_batches_must_have_the_same_fields(source):
    message = (
        r"this batch has boxes, and those before it had boxes, angle \[\], colour \[3\], keypoints \[2, 3\], masks"
    )
    with pytest.raises(ValueError, match=message):
        collected(source, rich(), detections([BOX]))
