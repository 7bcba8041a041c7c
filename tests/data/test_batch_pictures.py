"""Pictures of batches: what is on them is what the batch has, and padding is not."""

import numpy as np

from segjax.colours import class_colours
from segjax.data import batch_pictures, pipeline
from segjax.data.loading import assemble
from segjax.data.source import Example
from segjax.types import Batch
from tests.data.test_pipeline import BUCKETS, Rectangles
from tests.data.test_pipeline_fields import FIELDS, Described


def test_images_of_several_batches_make_one_sheet():
    batches = pipeline.evaluation_batches(Rectangles(), buckets=BUCKETS, batch_size=4, capacity=4)
    five = batch_pictures.picture(batches, Rectangles(), count=5, columns=5)
    two_rows = batch_pictures.picture(batches, Rectangles(), count=5, columns=3)
    assert five.shape[1] > 5 * 300 and two_rows.shape[0] > 1.8 * five.shape[0]


def test_boxes_and_masks_are_drawn_where_they_are():
    example = Example(
        image=np.full((40, 60, 3), 7, np.uint8),
        boxes=np.array([[10, 10, 30, 30]], np.float32),
        labels=np.array([1], np.int32),
        masks=np.pad(np.ones((1, 20, 20), np.uint8), ((0, 0), (10, 10), (10, 30))),
    )
    bucket = (60, 60)
    wanted = pipeline.check_wanted(Described(), ("masks",))
    batch = assemble([example], [0], bucket=bucket, capacity=3, wanted=wanted)
    sheet = batch_pictures.picture([batch], Described(), columns=1)
    image = sheet[8 : 8 + 280, 8 : 8 + 420].astype(int)  # of 40 x 60 pixels, seven times as large
    colour = class_colours(2)[1].astype(int)
    np.testing.assert_allclose(image[140, 140], 0.55 * 7 + 0.45 * colour, atol=2)  # inside the mask
    assert (image[250:, 300:] == 7).all()
    assert (image[205:212, 140] == colour).all(axis=-1).any()  # the lower edge of the box
    assert (sheet[8 + 280 + 30 :, 200:] > 200).all()  # nothing of the padding below


def test_joints_and_label_maps():
    batches = pipeline.evaluation_batches(Described(), buckets=((32, 44),), batch_size=4, capacity=4, fields=FIELDS)
    plain = pipeline.evaluation_batches(Described(), buckets=((32, 44),), batch_size=4, capacity=4)
    both = [batch_pictures.picture(found, Described(), count=4) for found in (batches, plain)]
    assert both[0].shape == both[1].shape and not np.array_equal(*both)

    class Mapped(Rectangles):
        colours = ((0, 0, 0), (0, 200, 0), (200, 0, 0))

    labels = np.full((1, 32, 32), 1, np.uint8)
    batch = assemble(
        [Example(np.zeros((32, 32, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int32))],
        [0],
        bucket=(32, 32),
        capacity=1,
    )
    batch = Batch(batch.images, batch.sizes, batch.instances, batch.samples, None, labels)
    sheet = batch_pictures.picture([batch], Mapped())
    assert abs(sheet[200, 200].astype(int) - [0, 120, 0]).max() < 3  # class 1 over black, six tenths opaque
