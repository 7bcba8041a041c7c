"""The table of names of torchvision's SSD and SSDLite."""

import re

from segjax.models.layers.vgg import CONVOLUTIONS
from segjax.pretrained.rules import Rule, conv_rules, mobilenet_rules, norm_rules

_HEADS = (("classification", "class"), ("regression", "box"))


def ssd300_rules() -> list[Rule]:
    """`ssd300_vgg16`. Its backbone is cut behind conv4_3 and counts rectifiers and poolings too."""
    rules, place = [Rule(r"backbone\.scale_weight", "params/backbone/conv4_3_scale/scale")], 0
    for stage, count in enumerate(CONVOLUTIONS[:4], start=1):
        for i in range(1, count + 1):
            rules += conv_rules(rf"backbone\.features\.{place}", f"backbone/conv{stage}_{i}")
            place += 2
        place += 1
    for i in (1, 2, 3):
        rules += conv_rules(rf"backbone\.extra\.0\.{2 * i - 1}", f"backbone/conv5_{i}")
    for place, layer in ((1, "fc6"), (3, "fc7")):
        rules += conv_rules(rf"backbone\.extra\.0\.7\.{place}", f"backbone/{layer}")
    for i in (1, 2, 3, 4):
        for place, part in ((0, 1), (2, 2)):
            rules += conv_rules(rf"backbone\.extra\.{i}\.{place}", f"backbone/conv{i + 7}_{part}")
    for torch, ours in _HEADS:
        rules += conv_rules(rf"head\.{torch}_head\.module_list\.(\d)", rf"head/{ours}\1")
    return rules


def ssdlite_rules() -> list[Rule]:
    """`ssdlite320_mobilenet_v3_large`."""
    trunk = mobilenet_rules("", "backbone/trunk", "batch")
    rules = [rule._replace(pattern=_in_two_parts(rule.pattern)) for rule in trunk]

    def conv_norm(torch: str, ours: str) -> list[Rule]:
        return [*conv_rules(rf"{torch}\.0", ours), *norm_rules(rf"{torch}\.1", f"{ours}_norm", "batch")]

    for i, part in enumerate(("narrow", "depthwise", "project")):
        rules += conv_norm(rf"backbone\.extra\.(\d)\.{i}", rf"backbone/extra\1_{part}")
    for torch, ours in _HEADS:
        place = rf"head\.{torch}_head\.module_list\.(\d)"
        rules += [
            *conv_norm(rf"{place}\.0", rf"head/{ours}\1_depthwise"),
            *conv_rules(rf"{place}\.1", rf"head/{ours}\1"),
        ]
    return rules


def _in_two_parts(pattern: str, cut: int = 13) -> str:
    """A MobileNetV3's torch name, "number...", where the network is cut behind the expansion of block `cut`."""
    number, rest = re.fullmatch(r"(\d+)(.*)", pattern).groups()
    place = int(number)
    if place < cut:
        return rf"backbone\.features\.0\.{number}{rest}"
    if place > cut:
        return rf"backbone\.features\.1\.{place - cut}{rest}"
    part = rest.removeprefix(r"\.block")
    # What is left of the block is no block any more, and its parts keep their numbers.
    expansion = part.removeprefix(r"\.0")
    return rf"backbone\.features\.1\.0{part}" if expansion == part else rf"backbone\.features\.0\.{number}{expansion}"
