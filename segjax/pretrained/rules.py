"""The table of names: which torchvision parameter becomes which of our variables, one list of rules a model.

A rule is (pattern of the torch name, our path, layout). Paths are `collection/module/.../leaf`; backslash groups are
filled in from the pattern. Layouts say how the array's axes move.
"""

from typing import Literal, NamedTuple

import numpy as np

from segjax.models.layers.mobilenet import block_plans
from segjax.models.layers.vgg import CONVOLUTIONS


class Rule(NamedTuple):
    """One line of a table."""

    pattern: str
    """Regular expression for the whole torch name."""
    path: str
    """Template of our path, expanded as `re.Match.expand` does; empty where the entry is not used."""
    layout: str = "same"
    """A key of LAYOUTS."""


def _flattened_map(side: int):
    """Layout of a dense layer on a flattened map of `side` x `side`: torch flattens (c, h, w), we flatten (h, w, c)."""

    def move(x: np.ndarray) -> np.ndarray:
        return x.reshape(x.shape[0], -1, side, side).transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    return move


def _without_background(anchors: int):
    """Layout of the class outputs of several anchors, class after class of each: without the first of each anchor."""

    def move(x: np.ndarray) -> np.ndarray:
        return x.reshape(anchors, -1, *x.shape[1:])[:, 1:].reshape(-1, *x.shape[1:])

    return move


LAYOUTS = {
    "same": lambda x: x,
    "conv": lambda x: x.transpose(2, 3, 1, 0),
    "dense": lambda x: x.T,
    "dense7x7": _flattened_map(7),
    "dense6x6": _flattened_map(6),
    # torch's transposed convolutions are [in, out, height, width].
    "upconv": lambda x: x.transpose(2, 3, 0, 1),
    # Without the background, which torchvision's mask head and FCOS have an output for and ours have not.
    "conv_classes": lambda x: x.transpose(2, 3, 1, 0)[..., 1:],
    "classes": lambda x: x[1:],
    # The same for RetinaNet's nine anchors.
    "conv_classes_of_9": lambda x: _without_background(9)(x).transpose(2, 3, 1, 0),
    "classes_of_9": _without_background(9),
}


def conv_rules(pattern: str, path: str, layout: str = "conv", bias: str = "same") -> list[Rule]:
    """Kernel and, where there is one, bias of a convolution, with their layouts."""
    return [
        Rule(rf"{pattern}\.weight", f"params/{path}/kernel", layout),
        Rule(rf"{pattern}\.bias", f"params/{path}/bias", bias),
    ]


def dense_rules(pattern: str, path: str, layout: str = "dense") -> list[Rule]:
    """Kernel and bias of a dense layer."""
    return [
        Rule(rf"{pattern}\.weight", f"params/{path}/kernel", layout),
        Rule(rf"{pattern}\.bias", f"params/{path}/bias"),
    ]


def norm_rules(pattern: str, path: str, kind: str) -> list[Rule]:
    """The vectors of a batch norm: as constants ("frozen_batch"), or as parameters and running statistics ("batch")."""
    if kind == "frozen_batch":
        affine, moments = f"frozen/{path}", f"frozen/{path}"
    else:
        affine, moments = f"params/{path}/norm", f"batch_stats/{path}/norm"
    return [
        Rule(rf"{pattern}\.weight", f"{affine}/scale"),
        Rule(rf"{pattern}\.bias", f"{affine}/bias"),
        Rule(rf"{pattern}\.running_mean", f"{moments}/mean"),
        Rule(rf"{pattern}\.running_var", f"{moments}/var"),
        Rule(rf"{pattern}\.num_batches_tracked", ""),
    ]


def resnet_rules(prefix: str, path: str, norm: str) -> list[Rule]:
    """A ResNet's trunk under the torch name `prefix` (a regular expression) and our module `path`."""
    block = rf"{prefix}layer(\d)\.(\d+)\."
    ours = rf"{path}/layer\1/block\2"
    return [
        *conv_rules(rf"{prefix}conv1", f"{path}/stem"),
        *norm_rules(rf"{prefix}bn1", f"{path}/stem_norm", norm),
        *conv_rules(rf"{block}conv(\d)", rf"{ours}/conv\3"),
        *norm_rules(rf"{block}bn(\d)", rf"{ours}/norm\3", norm),
        *conv_rules(rf"{block}downsample\.0", f"{ours}/project"),
        *norm_rules(rf"{block}downsample\.1", f"{ours}/project_norm", norm),
    ]


def vgg16_rules(prefix: str, path: str) -> list[Rule]:
    """The convolutions of VGG-16, whose torch names count the rectifiers and poolings between them too."""
    rules, index = [], 0
    for stage, convolutions in enumerate(CONVOLUTIONS, start=1):
        for i in range(1, convolutions + 1):
            rules += conv_rules(rf"{prefix}{index}", f"{path}/conv{stage}_{i}")
            index += 2
        index += 1
    return rules


def alexnet_rules() -> list[Rule]:
    """AlexNet, its classifier in a part of that name. torch's numbers count rectifiers, poolings and dropout too."""
    rules = []
    for i, index in enumerate((0, 3, 6, 8, 10), start=1):
        rules += conv_rules(rf"features\.{index}", f"backbone/conv{i}")
    return [
        *rules,
        *dense_rules(r"classifier\.1", "classifier/fc6", "dense6x6"),
        *dense_rules(r"classifier\.4", "classifier/fc7"),
        *dense_rules(r"classifier\.6", "classifier/logits"),
    ]


def mobilenet_rules(prefix: str, path: str, norm: str, size: Literal["large", "small"] = "large") -> list[Rule]:
    """The features of a MobileNetV3, each a number in torch's names."""

    def conv_norm(torch: str, ours: str) -> list[Rule]:
        return [*conv_rules(rf"{torch}\.0", ours), *norm_rules(rf"{torch}\.1", f"{ours}_norm", norm)]

    rules, channels = conv_norm(rf"{prefix}0", f"{path}/stem"), 16
    plans = block_plans(size)
    for i, plan in enumerate(plans):
        torch, ours = rf"{prefix}{i + 1}\.block", f"{path}/block{i}"
        steps = ["expand"] * (plan.expanded != channels) + ["depthwise"] + ["squeeze"] * plan.squeeze + ["project"]
        for j, step in enumerate(steps):
            if step == "squeeze":
                rules += conv_rules(rf"{torch}\.{j}\.fc1", f"{ours}/squeeze")
                rules += conv_rules(rf"{torch}\.{j}\.fc2", f"{ours}/excite")
            else:
                rules += conv_norm(rf"{torch}\.{j}", f"{ours}/{step}")
        channels = plan.out
    return rules + conv_norm(rf"{prefix}{len(plans) + 1}", f"{path}/last")


def fpn_rules() -> list[Rule]:
    """A pyramid without norms. Before torchvision 0.13 its convolutions were not in sequences."""
    return [
        *conv_rules(r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?", r"neck/inner\1"),
        *conv_rules(r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?", r"neck/layer\1"),
    ]


def two_stage_rules() -> list[Rule]:
    """Pyramid, region proposals and box head of torchvision's first detectors."""
    return [
        *fpn_rules(),
        # Before torchvision 0.13 the shared convolution was not in a sequence.
        *conv_rules(r"rpn\.head\.conv(?:\.0\.0)?", "rpn/conv"),
        *_RPN_OUTPUTS,
        *dense_rules(r"roi_heads\.box_head\.fc6", "box/fc6", "dense7x7"),
        *dense_rules(r"roi_heads\.box_head\.fc7", "box/fc7"),
        *_BOX_OUTPUTS,
    ]


def two_stage_v2_rules() -> list[Rule]:
    """Pyramid, region proposals and box head of torchvision's `_v2` detectors: more layers, and norms after most."""
    rules = [*_RPN_OUTPUTS, *_BOX_OUTPUTS, *conv_rules(r"rpn\.head\.conv\.(\d)\.0", r"rpn/conv\1")]
    for kind in ("inner", "layer"):
        torch, ours = rf"backbone\.fpn\.{kind}_blocks\.(\d)", rf"neck/{kind}\1"
        rules += [*conv_rules(rf"{torch}\.0", ours), *norm_rules(rf"{torch}\.1", f"{ours}_norm", "batch")]
    rules += conv_rules(r"roi_heads\.box_head\.(\d)\.0", r"box/conv\1")
    rules += norm_rules(r"roi_heads\.box_head\.(\d)\.1", r"box/norm\1", "batch")
    # After four convolutions comes the flattening, which has a number and no weights.
    return rules + dense_rules(r"roi_heads\.box_head\.5", "box/fc6", "dense7x7")


_RPN_OUTPUTS = [
    *conv_rules(r"rpn\.head\.cls_logits", "rpn/objectness"),
    *conv_rules(r"rpn\.head\.bbox_pred", "rpn/box"),
]
_BOX_OUTPUTS = [
    *dense_rules(r"roi_heads\.box_predictor\.cls_score", "box/class"),
    *dense_rules(r"roi_heads\.box_predictor\.bbox_pred", "box/box"),
]


def mask_rules() -> list[Rule]:
    """A mask head, with the norms of the `_v2` form where there are any."""
    rules = [
        *conv_rules(r"roi_heads\.mask_head\.(\d)\.0", r"mask/conv\1"),
        *norm_rules(r"roi_heads\.mask_head\.(\d)\.1", r"mask/norm\1", "batch"),
        *conv_rules(r"roi_heads\.mask_predictor\.conv5_mask", "mask/upsample", "upconv"),
        *conv_rules(r"roi_heads\.mask_predictor\.mask_fcn_logits", "mask/logits", "conv_classes", "classes"),
    ]
    for i in range(4):
        # Before torchvision 0.13 they were counted from one.
        rules += conv_rules(rf"roi_heads\.mask_head\.mask_fcn{i + 1}", f"mask/conv{i}")
    return rules


def keypoint_rules() -> list[Rule]:
    """A keypoint head. The numbers in torch's names count the rectifiers between its eight convolutions too."""
    rules = conv_rules(r"roi_heads\.keypoint_predictor\.kps_score_lowres", "keypoint/upsample", "upconv")
    for i in range(8):
        rules += conv_rules(rf"roi_heads\.keypoint_head\.{2 * i}", f"keypoint/conv{i}")
    return rules


def faster_rcnn_rules(norm: str = "frozen_batch") -> list[Rule]:
    """`fasterrcnn_resnet*_fpn`."""
    return [*resnet_rules(r"backbone\.body\.", "backbone", norm), *two_stage_rules()]


def faster_rcnn_v2_rules() -> list[Rule]:
    """`fasterrcnn_resnet50_fpn_v2`."""
    return [*resnet_rules(r"backbone\.body\.", "backbone", "batch"), *two_stage_v2_rules()]


def faster_rcnn_mobilenet_rules() -> list[Rule]:
    """`fasterrcnn_mobilenet_v3_large_fpn` and the one for 320 pixels."""
    return [*mobilenet_rules(r"backbone\.body\.", "backbone", "frozen_batch"), *two_stage_rules()]


def fcn_head_rules(torch: str = "classifier", ours: str = "classifier") -> list[Rule]:
    """torchvision's FCN head, which its auxiliary heads are too."""
    return [
        *conv_rules(rf"{torch}\.0", f"{ours}/conv"),
        *norm_rules(rf"{torch}\.1", f"{ours}/conv_norm", "batch"),
        *conv_rules(rf"{torch}\.4", f"{ours}/logits"),
    ]


def deeplab_head_rules() -> list[Rule]:
    """DeepLabV3's head. The last of the pyramid's branches begins with a pooling, which has a number."""
    convs, ours = r"classifier\.0\.convs", "classifier/aspp"
    return [
        *conv_rules(rf"{convs}\.([0-3])\.0", rf"{ours}/branch\1"),
        *norm_rules(rf"{convs}\.([0-3])\.1", rf"{ours}/branch\1_norm", "batch"),
        *conv_rules(rf"{convs}\.4\.1", f"{ours}/pool"),
        *norm_rules(rf"{convs}\.4\.2", f"{ours}/pool_norm", "batch"),
        *conv_rules(r"classifier\.0\.project\.0", f"{ours}/project"),
        *norm_rules(r"classifier\.0\.project\.1", f"{ours}/project_norm", "batch"),
        *conv_rules(r"classifier\.1", "classifier/conv"),
        *norm_rules(r"classifier\.2", "classifier/conv_norm", "batch"),
        *conv_rules(r"classifier\.4", "classifier/logits"),
    ]


def lraspp_head_rules() -> list[Rule]:
    """Lite R-ASPP's head."""
    return [
        *conv_rules(r"classifier\.cbr\.0", "classifier/conv"),
        *norm_rules(r"classifier\.cbr\.1", "classifier/conv_norm", "batch"),
        *conv_rules(r"classifier\.scale\.1", "classifier/gate"),
        *conv_rules(r"classifier\.low_classifier", "classifier/low"),
        *conv_rules(r"classifier\.high_classifier", "classifier/high"),
    ]


def auxiliary_rules() -> list[Rule]:
    """The head of the auxiliary loss, which a state dict need not have."""
    return fcn_head_rules("aux_classifier", "auxiliary")
