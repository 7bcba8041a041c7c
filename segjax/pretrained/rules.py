"""The table of names: which torchvision parameter becomes which of our variables, one list of rules a model.

A rule is (pattern of the torch name, our path, layout). Paths are `collection/module/.../leaf`; backslash groups are
filled in from the pattern. Layouts say how the array's axes move.
"""

from typing import NamedTuple

import numpy as np


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


LAYOUTS = {
    "same": lambda x: x,
    "conv": lambda x: x.transpose(2, 3, 1, 0),
    "dense": lambda x: x.T,
    "dense7x7": _flattened_map(7),
}


def conv_rules(pattern: str, path: str) -> list[Rule]:
    """Kernel and, where there is one, bias of a convolution."""
    return [
        Rule(rf"{pattern}\.weight", f"params/{path}/kernel", "conv"),
        Rule(rf"{pattern}\.bias", f"params/{path}/bias"),
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


def faster_rcnn_rules(norm: str = "frozen_batch") -> list[Rule]:
    """`fasterrcnn_resnet*_fpn`."""
    return [
        *resnet_rules(r"backbone\.body\.", "backbone", norm),
        *conv_rules(r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?", r"neck/inner\1"),
        *conv_rules(r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?", r"neck/layer\1"),
        # Before torchvision 0.13 the shared convolution was not in a sequence.
        *conv_rules(r"rpn\.head\.conv(?:\.0\.0)?", "rpn/conv"),
        *conv_rules(r"rpn\.head\.cls_logits", "rpn/objectness"),
        *conv_rules(r"rpn\.head\.bbox_pred", "rpn/box"),
        *dense_rules(r"roi_heads\.box_head\.fc6", "box/fc6", "dense7x7"),
        *dense_rules(r"roi_heads\.box_head\.fc7", "box/fc7"),
        *dense_rules(r"roi_heads\.box_predictor\.cls_score", "box/class"),
        *dense_rules(r"roi_heads\.box_predictor\.bbox_pred", "box/box"),
    ]
