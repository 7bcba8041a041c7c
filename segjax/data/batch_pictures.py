"""What training shows a model, drawn from its batches: images as they were augmented, with what is learnt of them."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8

from segjax.data.source import Source
from segjax.types import IGNORE, Batch, Instances
from segjax.visualize import contact_sheet, draw_objects, draw_segmentation
from segjax.visualize_maps import has_background, map_colours

SIDE = 420
"""Of a batch's longer side on the sheet, in pixels."""


def picture(
    batches: Iterable[Batch], source: Source, *, count: int = 12, columns: int = 4
) -> UInt8[np.ndarray, "h w 3"]:
    """A sheet of the first `count` images of batches on the host: boxes, masks and joints, or label maps, on them.

    Padding is left out, and so are images that nothing is known of (sample -1).

    Args:
        source: what the batches are of.
        columns: images side by side.
    """
    drawings, captions = [], []
    for batch in batches:
        for i, sample in enumerate(batch.samples.tolist()):
            if sample >= 0 and len(drawings) < count:
                drawings.append(_drawn(batch, i, source))
                captions.append(f"{source.info(sample).image_id}: {_counted(batch, i)}")
        if len(drawings) == count:
            break
    return contact_sheet(drawings, columns=columns, captions=captions)


def _drawn(batch: Batch, i: int, source: Source) -> np.ndarray:
    height, width = batch.sizes[i].tolist()
    image, scale = batch.images[i, :height, :width], SIDE / max(batch.images.shape[1:3])
    if batch.label_map is not None:
        return _with_map(image, batch.label_map[i, :height, :width], source, scale)
    objects, valid = batch.instances, batch.instances.valid[i]
    points = objects.keypoints
    return draw_objects(
        image,
        objects.boxes[i][valid],
        objects.labels[i][valid],
        masks=_masks(objects, i, height, width),
        keypoints=None if points is None else points[i][valid],
        skeleton=source.keypoints.skeleton if source.keypoints else (),
        classes=source.classes,
        scale=scale,
    )


def _masks(objects: Instances, i: int, height: int, width: int) -> np.ndarray | None:
    if objects.masks is None:
        return None
    bits = np.unpackbits(objects.masks[i][objects.valid[i]], axis=-1)
    return bits[:, :height, :width].astype(bool)


def _with_map(image: np.ndarray, labels: np.ndarray, source: Source, scale: float) -> np.ndarray:
    classes: Sequence[str] = (*source.classes, "not counted")
    colours = np.concatenate([map_colours(source.classes, source.colours), np.full((1, 3), 128, np.uint8)])
    shown = np.where(labels == IGNORE, len(source.classes), labels.astype(np.int64))
    background = has_background(source.classes)
    return draw_segmentation(image, shown, classes, background=background, colours=colours, scale=scale)


def _counted(batch: Batch, i: int) -> str:
    if batch.label_map is not None:
        return f"{len(np.setdiff1d(batch.label_map[i], IGNORE))} classes"
    return f"{int(batch.instances.valid[i].sum())} objects"
