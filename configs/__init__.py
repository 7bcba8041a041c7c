"""The recipes by name. Each is a file here whose docstring is its run book: command, hardware, time, expected score."""

from configs import (
    fast_rcnn_coco,
    fast_rcnn_scenes,
    faster_rcnn_bccd,
    faster_rcnn_c4_coco,
    faster_rcnn_coco,
    faster_rcnn_mobilenet_coco,
    faster_rcnn_scenes,
    faster_rcnn_v2_coco,
    faster_rcnn_vgg16_coco,
    keypoint_rcnn_coco,
    keypoint_rcnn_scenes,
    mask_rcnn_coco,
    mask_rcnn_scenes,
)
from configs.base import Recipe

CONFIGS: dict[str, Recipe] = {
    "faster_rcnn_scenes": faster_rcnn_scenes.RECIPE,
    "mask_rcnn_scenes": mask_rcnn_scenes.RECIPE,
    "keypoint_rcnn_scenes": keypoint_rcnn_scenes.RECIPE,
    "fast_rcnn_scenes": fast_rcnn_scenes.RECIPE,
    "faster_rcnn_bccd": faster_rcnn_bccd.RECIPE,
    "faster_rcnn_coco": faster_rcnn_coco.RECIPE,
    "faster_rcnn_v2_coco": faster_rcnn_v2_coco.RECIPE,
    "faster_rcnn_mobilenet_coco": faster_rcnn_mobilenet_coco.RECIPE,
    "faster_rcnn_c4_coco": faster_rcnn_c4_coco.RECIPE,
    "faster_rcnn_vgg16_coco": faster_rcnn_vgg16_coco.RECIPE,
    "fast_rcnn_coco": fast_rcnn_coco.RECIPE,
    "mask_rcnn_coco": mask_rcnn_coco.RECIPE,
    "keypoint_rcnn_coco": keypoint_rcnn_coco.RECIPE,
}
