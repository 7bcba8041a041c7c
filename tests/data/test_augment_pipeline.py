"""Augmentation in the pipeline: the same batches from any thread and after any stop, and every object accounted for."""

import dataclasses
import json

import numpy as np
import pytest
import tyro

from configs.augment import Augment
from configs.data import Data
from segjax.data import pipeline
from segjax.data.augment import IoUCrop, ZoomOut
from segjax.data.mixtures import COVERED, LOST, NOT_PASTED, CopyPaste, MixUp, Mosaic
from segjax.data.photometric import PhotometricDistort
from segjax.data.transforms import ScaleJitter, stretch, unletterbox
from segjax.evaluation.evaluator import to_original
from segjax.ops.masks import unpack
from segjax.types import Detections
from tests.data.test_pipeline import BUCKETS, Rectangles, assert_same, take, train
from tests.data.test_pipeline_fields import FIELDS, Described
from train.recipes import from_json, to_json

ALL = dict(
    before=(ZoomOut(0.3, largest=2.0), IoUCrop(0.5)),
    fit=ScaleJitter((0.8, 1.2)),
    mixtures=(Mosaic(0.6), MixUp(0.4)),
    capacity=20,
)


@pytest.fixture(scope="module")
def reference():
    """The batches of two epochs and one step, in order."""
    return take(train(**ALL), 13)


@pytest.mark.parametrize("options", [dict(threads=3, ahead=3), dict(workers=2)])
def test_mixed_batches_do_not_depend_on_who_makes_them(reference, options):
    count = 4 if "workers" in options else 13
    assert_same(take(train(**ALL, **options), count), reference[:count])


@pytest.mark.parametrize("stop", [1, 7])
def test_a_run_with_mosaics_goes_on_bit_for_bit(reference, stop):
    batches = train(**ALL)
    take(batches, stop)
    restored = train(**ALL, threads=2)
    restored.set_state(json.loads(json.dumps(batches.get_state())))
    assert_same(take(restored, 13 - stop), reference[stop:])
    assert_same([train(**ALL).batch_at(12)], reference[12:])


def test_mosaics_show_other_images(reference):
    """Of `Rectangles` each image has a grey level of its own, which colours change in proportion."""
    batches = take(train(transforms=(), fit=pipeline.fit_inside, mixtures=(Mosaic(),), capacity=20), 3)
    for batch in batches:
        assert (batch.sizes == batch.images.shape[1:3]).all()  # a mosaic fills its bucket
        for image, sample in zip(batch.images, batch.samples):
            levels = set(np.unique(image[..., 0]).tolist()) - {124}
            assert sample + 1 in levels and 2 <= len(levels) <= 4 and levels <= set(range(1, 22))
    once, again = (take(train(**ALL), 7)[i] for i in (0, 6))  # steps of two epochs
    assert not np.array_equal(once.images, again.images)


@pytest.mark.filterwarnings("ignore:.*more than capacity")
@pytest.mark.parametrize("fields", [(), FIELDS])
def test_every_object_read_is_in_a_batch_or_counted(fields):
    source = Described(24) if fields else Rectangles(24)
    mixtures = (Mosaic(0.5), MixUp(0.5), *([CopyPaste(0.7)] if fields else []))
    batches = train(source, **{**ALL, "mixtures": mixtures, "capacity": 5}, fields=fields, transforms=(), epochs=3)
    kept = sum(int(batch.instances.valid.sum()) for batch in batches)
    out = ["crowd objects left out", "difficult objects left out", LOST, COVERED, NOT_PASTED, "objects over capacity"]
    counts = batches.counts
    assert kept == counts["objects"] - sum(counts[name] for name in out)
    assert counts["images"] > 3 * 24 and counts[LOST] > 0 and counts["objects over capacity"] > 0
    assert not fields or (counts[NOT_PASTED] > 0 and counts[COVERED] > 0)


@pytest.mark.filterwarnings("ignore:.*more than capacity")
def test_what_is_mixed_stays_inside_its_image():
    batches = train(
        Described(24), **{**ALL, "mixtures": (Mosaic(0.5), CopyPaste())}, fields=FIELDS, transforms=(), epochs=2
    )
    objects = 0
    for batch in batches:
        found = batch.instances
        for i, (height, width) in enumerate(batch.sizes.tolist()):
            valid = found.valid[i]
            boxes, points = found.boxes[i][valid], found.keypoints[i][valid]
            assert (boxes >= 0).all() and (boxes <= [width, height] * 2).all() and (boxes[:, 2:] > boxes[:, :2]).all()
            labelled = points[..., 2] > 0
            assert (points[~labelled] == 0).all() and (points[labelled][:, :2] <= [width, height]).all()
            masks = np.asarray(unpack(found.masks[i], batch.images.shape[2]))[valid]
            assert not masks[:, height:].any() and not masks[:, :, width:].any()
            for box, mask in zip(boxes, masks):
                if mask.any():
                    rows, columns = np.nonzero(mask)
                    assert columns.min() >= box[0] - 1 and columns.max() <= box[2] and rows.max() <= box[3]
            objects += len(boxes)
    assert objects > 50


def test_an_unreadable_partner_is_replaced_and_reported():
    source = Rectangles(broken={3, 7})
    options = {**ALL, "mixtures": (Mosaic(),)}
    broken, count = train(source, **options), 12
    assert_same(take(broken, count), take(train(Rectangles(broken={3, 7}), **options, threads=2), count))
    assert {problem.image_id for problem in source.problems} == {"image3", "image7"}
    assert broken.counts["images replaced"] > 4  # more often than they are planned themselves


@pytest.mark.parametrize("buckets", [((32, 32),), BUCKETS])
def test_stretched_images_fill_their_bucket_and_boxes_return_to_the_file(buckets):
    source, seen = Rectangles(), 0
    options = dict(buckets=buckets, batch_size=4, capacity=4)
    for batch in pipeline.evaluation_batches(source, fit=stretch, **options):
        real = batch.samples >= 0
        assert (batch.sizes == batch.images.shape[1:3]).all()
        boxes = batch.instances.boxes
        infos = [source.info(sample) for sample in batch.samples[real].tolist()]
        found = Detections(boxes, boxes[..., 0], batch.instances.labels, batch.instances.valid)
        found = to_original(
            Detections(*(x[real] for x in (found.boxes, found.scores, found.labels, found.valid))),
            batch.sizes[real],
            infos,
        )
        for i, (sample, info) in enumerate(zip(batch.samples[real].tolist(), infos)):
            truth = source.annotations(sample)
            expected = truth.boxes[~(truth.crowd | truth.difficult)]
            valid = found.valid[i]
            np.testing.assert_allclose(found.boxes[i][valid], expected, rtol=1e-5)
            back = unletterbox(boxes[real][i][valid], tuple(batch.sizes[i].tolist()), (info.height, info.width))
            np.testing.assert_allclose(back, expected, rtol=1e-5)
            seen += len(expected)
    assert seen == 38


def test_all_is_off_by_default_and_named_on_the_command_line():
    assert not Data().stretch
    for stage in (Augment().before(), Augment().after(), Augment().mixtures()):
        assert stage == []
    line = "--augment.mosaic 0.5 --augment.copy-paste 0.25 --augment.iou-crop 1 --augment.zoom-out 0.5 --stretch"
    data = tyro.cli(Data, args=[*line.split(), "--augment.photometric", "0.75", "--augment.mixup", "0.1"])
    assert data.stretch and data.augment.before() == [ZoomOut(0.5), IoUCrop(1.0)]
    assert data.augment.after() == [PhotometricDistort(0.75)]
    assert data.augment.mixtures() == [Mosaic(0.5), MixUp(0.1), CopyPaste(0.25)]
    assert from_json(Data(), json.loads(json.dumps(to_json(data)))) == data


def test_a_recipe_trains_on_what_it_says():
    """The same batches as of the pipeline with the same stages by hand."""
    data = Data(
        buckets=BUCKETS,
        capacity=20,
        flip=0.0,
        stretch=True,
        augment=Augment(zoom_out=0.5, iou_crop=0.5, photometric=0.5, mosaic=0.5, mixup=0.5),
    )
    by_hand = pipeline.train_batches(
        Rectangles(),
        buckets=BUCKETS,
        capacity=20,
        batch_size=4,
        seed=3,
        before=(ZoomOut(0.5), IoUCrop(0.5)),
        fit=stretch,
        transforms=(PhotometricDistort(0.5),),
        mixtures=(Mosaic(0.5), MixUp(0.5)),
    )
    assert_same(take(data.training(Rectangles(), batch_size=4, seed=3), 5), take(by_hand, 5))
    jittered = dataclasses.replace(data, scales=(0.5, 0.5), augment=Augment())
    batch = next(jittered.training(Rectangles(), batch_size=4, seed=3))
    assert (batch.sizes * 2 == batch.images.shape[1:3]).all()
    shown = list(dataclasses.replace(data, scales=(0.5, 0.5)).evaluation(Rectangles(), batch_size=4))
    assert len(shown) == 6 and all((batch.sizes == batch.images.shape[1:3]).all() for batch in shown)


@pytest.mark.parametrize(("augment", "fields", "proposals", "message"), [
    (Augment(mosaic=1.5), (), "", r"data.augment.mosaic is a probability and must lie in 0..1, not 1.5"),
    (Augment(copy_paste=0.5), ("keypoints",), "", "data.augment.copy_paste pastes objects by their masks, and this"),
    (Augment(mixup=0.5), (), "boxes.npz", "data.augment.mixup cannot mix images with proposals"),
    (Augment(iou_crop=0.5), ("label_map",), "", "data.augment.iou_crop is for objects, and this model learns from"),
    (Augment(mosaic=0.5), ("label_map",), "", "data.augment.mosaic is for objects"),
])  # fmt: skip
def test_options_that_make_no_sense_are_refused(augment, fields, proposals, message):
    data = Data(augment=augment, proposals=(proposals, "", ""))
    with pytest.raises(ValueError, match=message):
        data.training(Described(), batch_size=2, seed=0, fields=fields)
