"""IoU of boxes on the host: their numbers differ from image to image, and `segjax.ops.boxes` would compile for each."""

import numpy as np
from faster_coco_eval import mask as coco_mask
from jaxtyping import Float, Float64

from segjax.evaluation.evaluator import xyxy_to_xywh


def box_ious(boxes: Float[np.ndarray, "n 4"], others: Float[np.ndarray, "m 4"]) -> Float64[np.ndarray, "n m"]:
    """IoU of each pair of `xyxy` boxes, in double precision; 0 with a box without area. Either may be none."""
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)))
    return np.asarray(coco_mask.iou(xyxy_to_xywh(boxes), xyxy_to_xywh(others), [0] * len(others)))
