"""Rules for RetinaNet and FCOS, see `segjax.pretrained.rules`.

torchvision's have an output for label 0, which no object has. It is left out here, so that class id c is torchvision's
label c + 1, as it is for the two-stage detectors.
"""

from segjax.pretrained.rules import Rule, conv_rules, fpn_rules, resnet_rules

TOWERS = (("classification", "class"), ("regression", "box"))


def _trunk_rules(norm: str) -> list[Rule]:
    """A ResNet and a pyramid with two coarser levels."""
    extra = [rule for i in range(2) for rule in conv_rules(rf"backbone\.fpn\.extra_blocks\.p{6 + i}", f"neck/extra{i}")]
    return [*resnet_rules(r"backbone\.body\.", "backbone", norm), *fpn_rules(), *extra]


def _group_norm_rules(pattern: str, path: str) -> list[Rule]:
    ours = f"params/{path}/norm"
    return [Rule(rf"{pattern}\.weight", f"{ours}/scale"), Rule(rf"{pattern}\.bias", f"{ours}/bias")]


def retinanet_rules() -> list[Rule]:
    """`retinanet_resnet50_fpn`."""
    rules = [*_trunk_rules("frozen_batch"), *_retina_rules()]
    for theirs, ours in TOWERS:
        for i in range(4):
            # Before torchvision 0.13 the rectifiers between the convolutions were counted too.
            rules += conv_rules(rf"head\.{theirs}_head\.conv\.{2 * i}", f"head/{ours}_conv{i}")
    return rules


def retinanet_v2_rules() -> list[Rule]:
    """`retinanet_resnet50_fpn_v2`."""
    return [*_trunk_rules("batch"), *_retina_rules()]


def _retina_rules() -> list[Rule]:
    rules = [
        *conv_rules(r"head\.classification_head\.cls_logits", "head/class", "conv_classes_of_9", "classes_of_9"),
        *conv_rules(r"head\.regression_head\.bbox_reg", "head/box"),
    ]
    for theirs, ours in TOWERS:
        rules += conv_rules(rf"head\.{theirs}_head\.conv\.(\d)\.0", rf"head/{ours}_conv\1")
        rules += _group_norm_rules(rf"head\.{theirs}_head\.conv\.(\d)\.1", rf"head/{ours}_norm\1")
    return rules


def fcos_rules() -> list[Rule]:
    """`fcos_resnet50_fpn`. The numbers in torch's names count norms and rectifiers too."""
    rules = [
        *_trunk_rules("frozen_batch"),
        *conv_rules(r"head\.classification_head\.cls_logits", "head/class", "conv_classes", "classes"),
        *conv_rules(r"head\.regression_head\.bbox_reg", "head/box"),
        *conv_rules(r"head\.regression_head\.bbox_ctrness", "head/centerness"),
    ]
    for theirs, ours in TOWERS:
        for i in range(4):
            rules += conv_rules(rf"head\.{theirs}_head\.conv\.{3 * i}", f"head/{ours}_conv{i}")
            rules += _group_norm_rules(rf"head\.{theirs}_head\.conv\.{3 * i + 1}", f"head/{ours}_norm{i}")
    return rules
