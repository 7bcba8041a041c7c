"""The two-stage detectors that are compared, and what only they have: proposals, samples, heads on regions."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision

from benchmarks.detectors import CPU, OBJECTS, Detector, Images, make_images
from benchmarks.random_weights import randomize_detector
from segjax.models.heads.roi import SamplingSettings
from segjax.models.heads.rpn import RPNSettings
from segjax.pretrained.models import MOBILENET_320_RPN

EVERYTHING = 16_384
"""More anchors than an image of `Detector.quick` pixels has."""
FEW = SamplingSettings(samples=128, positive_fraction=0.25)
"""Room for all of 100 proposals and the objects; 32 of them may be positive, and fewer are."""
MOBILENET_FROZEN = (
    ("backbone.body.0", "backbone/stem"),
    *((f"backbone.body.{i + 1}", f"backbone/block{i}") for i in range(6)),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoStage(Detector):
    """Region proposals, and heads on them."""

    rpn: RPNSettings = RPNSettings()
    """What torchvision has."""
    margin: float = 8.0
    """What the background's logit has more than the mean of the others: with this, a hundred detections are found."""

    losses: ClassVar[dict[str, str]] = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
        "mask": "loss_mask",
        "keypoint": "loss_keypoint",
    }

    def randomize(self, network: Any) -> None:
        """Stage by stage."""
        randomize_detector(network, make_images(self, CPU, 1, (256, 320)).images, background=self.margin)

    def background(self, network: Any) -> int:
        """Those of the mask of the background."""
        return network.roi_heads.mask_predictor.mask_fcn_logits.in_channels + 1 if self.masks else 0

    def count_work(self, network: Any, run: Any) -> dict[str, int]:
        """How many regions reach each of torchvision's heads. segjax's see a fixed number, the most there may be:
        `SamplingSettings` and `BoxSettings.detections` say which."""
        heads = {"proposals": "box_head", "regions of masks": "mask_head", "regions of joints": "keypoint_head"}
        modules = {fact: getattr(network.roi_heads, head, None) for fact, head in heads.items()}
        seen: dict[str, int] = {}
        count = lambda fact: lambda _, inputs, __: seen.update({fact: len(inputs[0])})  # noqa: E731
        hooks = [module.register_forward_hook(count(fact)) for fact, module in modules.items() if module is not None]
        run()
        for hook in hooks:
            hook.remove()
        return seen

    def place_objects(self, network: Any, data: Images) -> np.ndarray:
        """Boxes that many of the proposals in training lie about.

        A trained network proposes many boxes about each object, and what the mask and keypoint heads do goes with their
        number. Random weights cannot know where the objects are; so the objects come to where the proposals are.
        """
        seen: list[list[torch.Tensor]] = []
        hook = network.roi_heads.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
        with torch.no_grad():
            network(data.images, data.targets)
        hook.remove()
        return np.array([most_surrounded(boxes).cpu().numpy() for boxes in seen[0]])

    def sample_few(self, network: Any) -> dict[str, Any]:
        """The regions of `FEW`."""
        sampler = network.roi_heads.fg_bg_sampler
        sampler.batch_size_per_image, sampler.positive_fraction = FEW.samples, FEW.positive_fraction
        return {"sampling": FEW}

    def sample_all(self, network: Any) -> dict[str, Any]:
        """All anchors, and all of 100 proposals."""
        options = self.sample_few(network)
        anchors = network.rpn.fg_bg_sampler
        anchors.batch_size_per_image, anchors.positive_fraction = EVERYTHING, 1.0
        network.rpn._pre_nms_top_n["training"], network.rpn._post_nms_top_n["training"] = 200, 100
        everything = {"samples": EVERYTHING, "positive_fraction": 1.0}
        rpn = dataclasses.replace(self.rpn, candidates=(200, 200), proposals=(100, 100), **everything)
        return options | {"rpn": rpn}


def most_surrounded(boxes: torch.Tensor) -> torch.Tensor:
    """The box with most others at an IoU of 0.5 or more; of what is further away again that; `OBJECTS` in all."""
    near, chosen = torchvision.ops.box_iou(boxes, boxes) >= 0.5, []
    for _ in range(OBJECTS):
        chosen.append(int(near.sum(1).argmax()))
        taken = near[chosen[-1]].clone()
        near[taken], near[:, taken] = False, False
    return boxes[chosen].float()


TWO_STAGE = {
    "faster_rcnn": TwoStage(name="fasterrcnn_resnet50_fpn", predict=((480, 640), (800, 1216)), channels_last=True),
    "faster_rcnn_v2": TwoStage(name="fasterrcnn_resnet50_fpn_v2", frozen_norms=False, train=None),
    "faster_rcnn_mobilenet_320": TwoStage(
        name="fasterrcnn_mobilenet_v3_large_320_fpn",
        frozen=MOBILENET_FROZEN,
        rpn=MOBILENET_320_RPN,
        margin=4.0,  # of 150 proposals, not 1000
        predict=((320, 448),),
        train=(320, 448),
    ),
    "mask_rcnn": TwoStage(name="maskrcnn_resnet50_fpn", masks=True),
    "keypoint_rcnn": TwoStage(name="keypointrcnn_resnet50_fpn", classes=1, keypoints=True, margin=3.5),
}
