"""The single-shot detectors that are compared, and what only they have: outputs at every place, and no samples."""

import dataclasses
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import boxes as box_ops

from benchmarks.detectors import CPU, OBJECTS, RESNET_FROZEN, Detector, Images, Size, make_images
from benchmarks.random_weights import randomize_pyramid_detector, randomize_ssd

CALIBRATION = 4
"""Images that the norms get their statistics of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingleShot(Detector):
    """A head on maps."""

    def count_work(self, network: Any, run: Any) -> dict[str, int]:
        """The boxes that go into NMS, or the anchors and points that belong to an object."""
        seen: dict[str, int] = {}
        nms, training = box_ops.batched_nms, network.head if hasattr(network.head, "compute_loss") else network
        compute_loss = training.compute_loss

        def counted_nms(boxes: torch.Tensor, *args: Any) -> torch.Tensor:
            seen["boxes into NMS"] = len(boxes)
            return nms(boxes, *args)

        def counted_loss(*args: Any) -> dict[str, torch.Tensor]:
            seen["positives"] = sum(int((matched >= 0).sum()) for matched in args[-1])
            return compute_loss(*args)

        nms_is_counted = mock.patch.object(box_ops, "batched_nms", counted_nms)
        with nms_is_counted, mock.patch.object(training, "compute_loss", counted_loss):
            run()
        return seen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pyramid(SingleShot):
    """RetinaNet and FCOS: one head on all levels of a feature pyramid, and sigmoids of classes."""

    logit: float
    """Mean of the class logits: with this, a few hundred boxes go into NMS."""
    losses: ClassVar[dict[str, str]] = {
        "class": "classification",
        "box": "bbox_regression",
        "centerness": "bbox_ctrness",
    }

    def randomize(self, network: Any) -> None:
        """As for the comparison of results."""
        randomize_pyramid_detector(network, make_images(self, CPU, CALIBRATION, self.quick).images, logit=self.logit)

    def background(self, network: Any) -> int:
        """One output of each anchor."""
        head = network.head.classification_head
        last = head.cls_logits
        return head.num_anchors * (last.weight[0].numel() + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SSD(SingleShot):
    """SSD and SSDLite: a layer for each map, and softmax with the background, which is trained on."""

    margin: float
    """What the background's logit has more than the mean of the others: with this, a few hundred boxes go into NMS."""
    grids: tuple[Size, ...]
    """(height, width) of the maps of an image."""
    losses: ClassVar[dict[str, str]] = {"class": "classification", "box": "bbox_regression"}

    def randomize(self, network: Any) -> None:
        """As for the comparison of results."""
        randomize_ssd(network, make_images(self, CPU, CALIBRATION, self.quick).images, background=self.margin)

    def settle_objects(self, network: Any, data: Images) -> np.ndarray:
        """Boxes about some of the priors inside the image.

        A box that lies in several equal priors has the same IoU with each, and which of them it claims is left to
        rounding.
        """
        grids = [(1, 1, *size) for size in self.grids]
        images = ImageList(torch.stack(data.images), [image.shape[1:] for image in data.images])
        (priors, *_) = network.anchor_generator(images, [images.tensors.new_zeros(grid) for grid in grids])
        limits = np.array(data.images[0].shape[:0:-1])
        priors, rng = priors.cpu().numpy(), np.random.default_rng(0)
        inside = priors[(priors[:, :2] >= 0).all(1) & (priors[:, 2:] <= limits).all(1)]
        chosen = inside[rng.integers(0, len(inside), (len(data.images), OBJECTS))]
        moved = chosen + rng.uniform(-0.08, 0.08, chosen.shape) * np.tile(chosen[..., 2:] - chosen[..., :2], 2)
        return np.clip(moved, 0, np.tile(limits, 2)).astype(np.float32)

    def background(self, network: Any) -> int:
        """None."""
        del network
        return 0


SSD_SIZE, LITE_SIZE = (300, 300), (320, 320)
"""What torchvision brings every image to."""
SINGLE_SHOT = {
    "retinanet": Pyramid(
        name="retinanet_resnet50_fpn", logit=-13.5, predict=((480, 640), (800, 1216)), channels_last=True
    ),
    "retinanet_v2": Pyramid(
        name="retinanet_resnet50_fpn_v2",
        logit=-13.5,
        frozen=(*RESNET_FROZEN, ("backbone.body.bn1", "backbone/stem_norm")),
        frozen_norms=False,
    ),
    "fcos": Pyramid(name="fcos_resnet50_fpn", logit=-10.5, channels_last=True),
    "ssd300": SSD(
        name="ssd300_vgg16",
        margin=10.5,
        grids=tuple((side, side) for side in (38, 19, 10, 5, 3, 1)),
        frozen=(("backbone.features.0", "backbone/conv1_1"), ("backbone.features.2", "backbone/conv1_2")),
        predict=(SSD_SIZE,),
        channels_last=True,
        train=SSD_SIZE,
        count=4,
        quick=SSD_SIZE,
    ),
    "ssdlite320": SSD(
        name="ssdlite320_mobilenet_v3_large",
        margin=12.5,
        grids=tuple((side, side) for side in (20, 10, 5, 3, 2, 1)),
        frozen=(),
        frozen_norms=False,
        predict=(LITE_SIZE,),
        channels_last=True,
        train=LITE_SIZE,
        count=8,
        quick=LITE_SIZE,
    ),
}
