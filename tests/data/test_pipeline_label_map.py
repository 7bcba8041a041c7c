"""Batches with label maps: padding does not count, faulty files are replaced, and nothing is made unasked."""

import jax
import numpy as np
import pytest

from segjax.data import pipeline
from segjax.data.agnostic import AgnosticSource
from segjax.data.source import Annotations, DataError, ImageInfo, LabelMapSource, Problems
from segjax.data.transforms import HorizontalFlip, ScaleJitter
from segjax.types import IGNORE

BUCKETS = ((32, 44), (44, 32))
FIELDS = ("label_map",)


class Unlabelled:
    """A source in memory of images in squares of three grey levels."""

    name, classes, keypoints = "labelled", ("a", "b", "c"), None

    def __init__(self, count=8):
        self.count, self.problems = count, Problems()

    def __len__(self):
        return self.count

    def info(self, index):
        return ImageInfo(index, f"{index}.png", *((30, 40) if index % 3 else (40, 30)))

    def annotations(self, index):
        none = np.zeros(0, bool)
        return Annotations(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0), none, none, (), ())

    def image(self, index):
        info = self.info(index)
        rows, columns = np.mgrid[: info.height, : info.width]
        return np.repeat(((rows // 10 + columns // 10 + index) % 3 * 20)[..., None], 3, axis=2).astype(np.uint8)


class Labelled(Unlabelled):
    """The same with label maps, some of which are broken: the grey level is 20 times the class."""

    colours = None

    def __init__(self, count=8, broken=()):
        super().__init__(count)
        self.broken = broken

    def label_map(self, index):
        if index in self.broken:
            raise DataError(f"{index}.png has ids of no class")
        info = self.info(index)
        rows, columns = np.mgrid[: info.height, : info.width]
        return ((rows // 10 + columns // 10 + index) % 3).astype(np.uint8)


def train(source, **changes):
    options = dict(
        buckets=BUCKETS,
        batch_size=2,
        capacity=1,
        seed=1,
        epochs=1,
        fit=ScaleJitter((0.6, 1.5)),
        transforms=(HorizontalFlip(0.5),),
        fields=FIELDS,
    )
    return pipeline.train_batches(source, **{**options, **changes})


def test_a_source_of_label_maps_is_one():
    assert isinstance(Labelled(), LabelMapSource) and not isinstance(Unlabelled(), LabelMapSource)


def test_maps_lie_on_their_images_and_padding_does_not_count():
    padded = 0
    for batch in train(Labelled(), epochs=4):
        assert batch.label_map.shape == batch.images.shape[:3] and batch.label_map.dtype == np.uint8
        for image, labels, (height, width) in zip(batch.images, batch.label_map, batch.sizes):
            outside = np.ones(labels.shape, bool)
            outside[:height, :width] = False
            np.testing.assert_array_equal(labels == IGNORE, outside)
            near = np.abs(image[..., 0].astype(int) - labels * 20)[~outside]
            assert (near <= 10).mean() > 0.94  # a blend of the first and the third class is as bright as the second
            padded += outside.sum()
    assert padded > 1000


def test_label_maps_are_made_only_where_asked_for(monkeypatch):
    monkeypatch.setattr(Labelled, "label_map", lambda *_: pytest.fail("read"))
    assert next(train(Labelled(), fields=())).label_map is None
    assert next(pipeline.evaluation_batches(Labelled(), buckets=BUCKETS, batch_size=2)).label_map is None


def test_an_evaluation_carries_them_on_request_and_nothing_where_there_is_no_image():
    source = Labelled(3, broken=(2,))
    batches = pipeline.evaluation_batches(source, buckets=BUCKETS, batch_size=4, fields=FIELDS)
    seen = {}
    for batch in batches:
        for sample, labels in zip(batch.samples.tolist(), batch.label_map):
            if sample < 0:
                assert (labels == IGNORE).all()
            seen[sample] = labels
    assert set(seen) == {-1, 0, 1} and [p.action for p in source.problems] == ["left out"]
    assert (seen[1][:, :42] != IGNORE).all() and (seen[1][:, 42:] == IGNORE).all()  # 30x40 in 32x44 becomes 32x42


def test_a_label_map_that_cannot_be_used_is_reported_once_and_replaced():
    source = Labelled(broken=(2,))
    batches = train(source, epochs=3)
    samples = np.concatenate([batch.samples for batch in batches])
    assert 2 not in samples and batches.counts["images replaced"] >= 3
    (problem,) = source.problems
    assert (problem.image_id, problem.detail, problem.action) == (2, "2.png has ids of no class", "replaced")


def test_none_of_a_bucket_can_be_read():
    with pytest.raises(DataError, match=r"none of the 3 images.*44x32 bucket can be read.*ids of no class"):
        list(train(Labelled(broken=(0, 3, 6))))


def test_they_go_to_the_device():
    batches = pipeline.prefetch_to_device(train(Labelled()), jax.devices()[0])
    batch, plain = next(batches), next(train(Labelled()))
    assert isinstance(batch.label_map, jax.Array)
    np.testing.assert_array_equal(batch.label_map, plain.label_map)


@pytest.mark.parametrize("source", [Unlabelled(), AgnosticSource(Labelled())])
def test_a_source_without_label_maps_is_refused(source):
    with pytest.raises(ValueError, match="labelled has no label maps, and the model learns from them; read it with"):
        train(source)
