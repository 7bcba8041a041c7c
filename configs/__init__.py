"""The recipes by name. Each is a file here whose docstring is its run book: command, hardware, time, expected score."""

from configs import (
    faster_rcnn_bccd,
    faster_rcnn_coco,
    faster_rcnn_scenes,
    keypoint_rcnn_scenes,
    mask_rcnn_scenes,
)
from configs.base import Recipe

CONFIGS: dict[str, Recipe] = {
    "faster_rcnn_scenes": faster_rcnn_scenes.RECIPE,
    "faster_rcnn_bccd": faster_rcnn_bccd.RECIPE,
    "faster_rcnn_coco": faster_rcnn_coco.RECIPE,
    "mask_rcnn_scenes": mask_rcnn_scenes.RECIPE,
    "keypoint_rcnn_scenes": keypoint_rcnn_scenes.RECIPE,
}
