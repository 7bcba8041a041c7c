"""The models and backbones that torchvision has weights for, made as torchvision makes them, by its names."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from segjax.models.deeplab import deeplabv3
from segjax.models.detr import detr
from segjax.models.faster_rcnn import faster_rcnn
from segjax.models.fcn import fcn
from segjax.models.fcos import fcos
from segjax.models.heads.box import BoxHead, BoxNetwork
from segjax.models.heads.mask import MaskHead, MaskNetwork
from segjax.models.heads.retina import RetinaNetwork, RetinaSettings
from segjax.models.heads.rpn import RPNHead, RPNSettings
from segjax.models.keypoint_rcnn import keypoint_rcnn
from segjax.models.layers.alexnet import AlexNet
from segjax.models.layers.fpn import FPN
from segjax.models.layers.mobilenet import MobileNetV3
from segjax.models.layers.norms import EPSILON, NormName
from segjax.models.layers.resnet import BLOCKS, ResNet
from segjax.models.layers.vgg import VGG16
from segjax.models.lraspp import lraspp
from segjax.models.mask_rcnn import mask_rcnn
from segjax.models.parts import Module
from segjax.models.retinanet import retinanet
from segjax.models.ssd import ssd300, ssdlite320
from segjax.pretrained import detr_rules, pyramid_rules, rules, ssd_rules
from segjax.pretrained.rules import Rule
from segjax.types import Model


class Detector(NamedTuple):
    """A line of the table of detectors."""

    make: Callable[..., Model]
    rules: Callable[[], list[Rule]]
    epsilon: float = EPSILON
    """What its norms add to the variance."""
    side: int = 32
    """Pixels of square images that it can be made for."""


class Segmenter(NamedTuple):
    """A line of the table of models of semantic segmentation."""

    make: Callable[..., Model]
    rules: Callable[[NormName], list[Rule]]
    epsilon: float = EPSILON
    """What the backbone's norms add to the variance."""


class Backbone(NamedTuple):
    """A line of the table of backbones: what a classifier's weights become a part of."""

    make: Callable[[NormName], Module]
    rules: Callable[[NormName], list[Rule]]
    epsilon: float = EPSILON
    norms: bool = True
    """Whether it has any."""
    layers: tuple[str, ...] = ()
    """Those of the classifier that the rules keep, beside the backbone, by path."""


def _resnet50_fpn(
    make: Callable[..., Model], *, classes: int = 90, dtype: DTypeLike = jnp.float32, **options: Any
) -> Model:
    return make(classes, **{"backbone": ResNet(50, dtype=dtype), **options}, dtype=dtype)


def _resnet50_fpn_v2(
    make: Callable[..., Model], *further: str, classes: int = 90, dtype: DTypeLike = jnp.float32, **options: Any
) -> Model:
    """The `_v2` form (Li et al. 2021): trained norms, two convolutions before the proposals, four in the box head."""
    rpn = options.get("rpn", RPNSettings())
    four = {"convolutions": (256,) * 4, "norm": "batch", "dtype": dtype}
    heads = {"box": BoxHead(BoxNetwork(classes, hidden=(1024,), **four))}
    if "mask" in further:
        heads["mask"] = MaskHead(MaskNetwork(classes, **four))
    defaults = {
        "backbone": ResNet(50, "batch", dtype=dtype),
        "neck": FPN(norm="batch", dtype=dtype),
        "rpn_head": RPNHead(rpn.per_position, depth=2, dtype=dtype),
        "heads": heads | dict(options.pop("heads", {})),
    }
    return make(classes, **{**defaults, **options}, dtype=dtype)


MOBILENET_RPN = RPNSettings(anchor_sizes=((32.0, 64.0, 128.0, 256.0, 512.0),) * 3, score_threshold=0.05)
MOBILENET_320_RPN = RPNSettings(
    anchor_sizes=MOBILENET_RPN.anchor_sizes, score_threshold=0.05, candidates=(2000, 150), proposals=(2000, 150)
)
"""What torchvision's MobileNet detectors have: every anchor on each of three maps, few proposals."""


def _mobilenet_fpn(*, rpn: RPNSettings, classes: int = 90, dtype: DTypeLike = jnp.float32, **options: Any) -> Model:
    defaults = {
        # The detectors' norms have torch's default epsilon, not that of the classifier.
        "backbone": MobileNetV3(epsilon=EPSILON, dtype=dtype),
        # Both of the backbone's maps have stride 32; regions of every size come from the first.
        "roi_strides": (32,),
    }
    return faster_rcnn(classes, **{**defaults, **options}, rpn=rpn, dtype=dtype)


def _segmenter_resnet(
    make: Callable[..., Model],
    depth: int,
    *,
    classes: int = 21,
    norm: NormName = "batch",
    dtype: DTypeLike = jnp.float32,
    **options: Any,
) -> Model:
    backbone = ResNet(depth, norm, stages=(3, 4), dilate_last=2, dtype=dtype)
    return make(classes, **{"backbone": backbone, **options}, dtype=dtype)


def _segmenter_mobilenet(
    make: Callable[..., Model],
    *,
    classes: int = 21,
    norm: NormName = "batch",
    dtype: DTypeLike = jnp.float32,
    **options: Any,
) -> Model:
    backbone = MobileNetV3(norm=norm, dilated=True, stages=(2, 5), dtype=dtype)
    return make(classes, **{"backbone": backbone, **options}, dtype=dtype)


RETINA_V2 = RetinaSettings(box_loss="giou")


def _retinanet_v2(
    classes: int, *, settings: RetinaSettings = RETINA_V2, dtype: DTypeLike = jnp.float32, **options: Any
) -> Model:
    """The `_v2` form: trained norms, group norm in the head, coarser levels from C5, a loss of boxes as a whole."""
    defaults = {
        "backbone": ResNet(50, "batch", stages=(2, 3, 4), dtype=dtype),
        "neck": FPN(extra="convolved_input", dtype=dtype),
        "network": RetinaNetwork(classes, settings.per_position, norm="group", dtype=dtype),
    }
    return retinanet(classes, **{**defaults, **options}, settings=settings, dtype=dtype)


def _ninety(make: Callable[..., Model]) -> Callable[..., Model]:
    """Of COCO's 90 classes unless told otherwise."""
    return lambda *, classes=90, **options: make(classes, **options)


def _with(base: Callable[[], list[Rule]], *heads: Callable[[], list[Rule]]) -> Callable[[], list[Rule]]:
    return lambda: [*base(), *(rule for head in heads for rule in head())]


def _mobilenet_classifier(size: str, norm: NormName) -> list[Rule]:
    return [*rules.mobilenet_rules(r"features\.", "backbone", norm, size), Rule(r"classifier\..*", "")]


def _vgg16_classifier() -> list[Rule]:
    return [
        *rules.vgg16_rules(r"features\.", "backbone"),
        # Fast R-CNN's head begins as the classifier's first two layers (Girshick 2015, section 2.2).
        *rules.dense_rules(r"classifier\.0", "box/fc6", "dense7x7"),
        *rules.dense_rules(r"classifier\.3", "box/fc7"),
        Rule(r"classifier\.6\..*", ""),
    ]


TWO_STAGE: dict[str, Detector] = {
    "fasterrcnn_resnet50_fpn": Detector(functools.partial(_resnet50_fpn, faster_rcnn), rules.faster_rcnn_rules),
    "fasterrcnn_resnet50_fpn_v2": Detector(
        functools.partial(_resnet50_fpn_v2, faster_rcnn), rules.faster_rcnn_v2_rules
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": Detector(
        functools.partial(_mobilenet_fpn, rpn=MOBILENET_RPN), rules.faster_rcnn_mobilenet_rules
    ),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Detector(
        functools.partial(_mobilenet_fpn, rpn=MOBILENET_320_RPN), rules.faster_rcnn_mobilenet_rules
    ),
    "maskrcnn_resnet50_fpn": Detector(
        functools.partial(_resnet50_fpn, mask_rcnn), _with(rules.faster_rcnn_rules, rules.mask_rules)
    ),
    "maskrcnn_resnet50_fpn_v2": Detector(
        functools.partial(_resnet50_fpn_v2, mask_rcnn, "mask"), _with(rules.faster_rcnn_v2_rules, rules.mask_rules)
    ),
    "keypointrcnn_resnet50_fpn": Detector(
        functools.partial(_resnet50_fpn, keypoint_rcnn, classes=1),
        _with(rules.faster_rcnn_rules, rules.keypoint_rules),
    ),
}

SINGLE_SHOT: dict[str, Detector] = {
    "retinanet_resnet50_fpn": Detector(_ninety(retinanet), pyramid_rules.retinanet_rules),
    "retinanet_resnet50_fpn_v2": Detector(_ninety(_retinanet_v2), pyramid_rules.retinanet_v2_rules),
    "fcos_resnet50_fpn": Detector(_ninety(fcos), pyramid_rules.fcos_rules),
    "ssd300_vgg16": Detector(_ninety(ssd300), ssd_rules.ssd300_rules, side=300),
    "ssdlite320_mobilenet_v3_large": Detector(_ninety(ssdlite320), ssd_rules.ssdlite_rules, MobileNetV3.epsilon),
}

SET_PREDICTION: dict[str, Detector] = {
    # Not torchvision's: the name that its authors gave it in torch.hub. Their classes are COCO's category ids from 0.
    "detr_resnet50": Detector(lambda *, classes=91, **options: detr(classes, **options), detr_rules.detr_rules),
}

DETECTORS = {**TWO_STAGE, **SINGLE_SHOT, **SET_PREDICTION}


def _segmenter_rules(
    trunk: Callable[..., list[Rule]], *heads: Callable[[], list[Rule]]
) -> Callable[[NormName], list[Rule]]:
    return lambda norm: [*trunk(r"backbone\.", "backbone", norm), *(rule for head in heads for rule in head())]


SEGMENTERS: dict[str, Segmenter] = {
    **{
        f"{name}_resnet{depth}": Segmenter(
            functools.partial(_segmenter_resnet, make, depth),
            _segmenter_rules(rules.resnet_rules, head, rules.auxiliary_rules),
        )
        for name, make, head in (
            ("fcn", fcn, rules.fcn_head_rules),
            ("deeplabv3", deeplabv3, rules.deeplab_head_rules),
        )
        for depth in (50, 101)
    },
    "deeplabv3_mobilenet_v3_large": Segmenter(
        functools.partial(_segmenter_mobilenet, deeplabv3),
        _segmenter_rules(rules.mobilenet_rules, rules.deeplab_head_rules, rules.auxiliary_rules),
        MobileNetV3.epsilon,
    ),
    "lraspp_mobilenet_v3_large": Segmenter(
        functools.partial(_segmenter_mobilenet, lraspp),
        _segmenter_rules(rules.mobilenet_rules, rules.lraspp_head_rules),
        MobileNetV3.epsilon,
    ),
}

BACKBONES: dict[str, Backbone] = {
    **{
        f"resnet{depth}": Backbone(
            functools.partial(ResNet, depth),
            # The classifier's last layer has no place in a detector.
            lambda norm: [*rules.resnet_rules("", "backbone", norm), Rule(r"fc\.(weight|bias)", "")],
        )
        for depth in BLOCKS
    },
    "vgg16": Backbone(
        lambda norm: VGG16(), lambda norm: _vgg16_classifier(), norms=False, layers=("box/fc6", "box/fc7")
    ),
    "alexnet": Backbone(
        lambda norm: AlexNet(pool=False),
        lambda norm: rules.alexnet_rules(),
        norms=False,
        layers=("classifier/fc6", "classifier/fc7", "classifier/logits"),
    ),
    **{
        f"mobilenet_v3_{size}": Backbone(
            functools.partial(MobileNetV3, size),
            functools.partial(_mobilenet_classifier, size),
            MobileNetV3.epsilon,
        )
        for size in ("large", "small")
    },
}
