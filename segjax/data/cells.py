"""What a grid has no room for: objects that share their cell with a larger one, which YOLO cannot learn."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from segjax.data.buckets import Bucket, assign, fit
from segjax.data.source import Source
from segjax.ops.grid import responsible_cells


def objects_without_cell(source: Source, *, grid: int, buckets: Sequence[Bucket], stretch: bool = False) -> int:
    """How many of the objects to train on (neither crowd nor difficult) `segjax.ops.grid.encode_cells` leaves out.

    Images are as large as they fit into their bucket, whole and not augmented: a random window or mirroring moves
    objects to other cells, some of which are free.

    Args:
        source: only its annotations are read.
        grid: cells along each side of the bucket.
        buckets: (height, width) of the batches' images, in pixels.
        stretch: images are resized to all of their bucket; else they keep their aspect ratio and are padded.
    """
    infos = [source.info(i) for i in range(len(source))]
    assigned = assign(*np.array([(info.height, info.width) for info in infos], np.int64).reshape(-1, 2).T, buckets)
    lost = 0
    for k, bucket in enumerate(buckets):
        owners, boxes = [np.zeros(0, np.int64)], [np.zeros((0, 4), np.float32)]
        for i in np.flatnonzero(assigned == k).tolist():
            objects, info = source.annotations(i), infos[i]
            height, width = bucket if stretch else fit(info.height, info.width, bucket)[:2]
            kept = objects.boxes[objects.counted].astype(np.float32)
            boxes.append(kept * np.array([width / info.width, height / info.height] * 2, np.float32))
            owners.append(np.full(len(kept), i))
        cells = np.asarray(responsible_cells(jnp.asarray(np.concatenate(boxes)), grid=grid, size=bucket))
        taken = np.unique(np.stack([np.concatenate(owners), cells], axis=1), axis=0)
        lost += len(cells) - len(taken)
    return lost
