"""Rules for DETR, see `segjax.pretrained.rules`, under the names of its authors' code (facebookresearch/detr).

Its outputs are loaded as they are. COCO's models have one for each category id from 0 to 90 and one for no object, so
that class id c is category c, not c + 1 as where torchvision's background is left out: a softmax without one of its
columns would be another.
"""

from segjax.pretrained.rules import Rule, conv_rules, dense_rules, resnet_rules


def _layer_norm_rules(pattern: str, path: str) -> list[Rule]:
    ours = f"params/{path}"
    return [Rule(rf"{pattern}\.weight", f"{ours}/scale"), Rule(rf"{pattern}\.bias", f"{ours}/bias")]


def _layer_rules(kind: str, attentions: dict[str, str], norms: tuple[str, ...]) -> list[Rule]:
    """The layers of the encoder or the decoder; norms are counted from 1 there."""
    torch, ours = rf"transformer\.{kind}\.layers\.(\d+)\.", rf"head/transformer/{kind}\1"
    rules = [*dense_rules(f"{torch}linear1", f"{ours}/expand"), *dense_rules(f"{torch}linear2", f"{ours}/project")]
    for theirs, name in attentions.items():
        rules += [
            Rule(rf"{torch}{theirs}\.in_proj_weight", f"params/{ours}/{name}/in_kernel", "dense"),
            Rule(rf"{torch}{theirs}\.in_proj_bias", f"params/{ours}/{name}/in_bias"),
            *dense_rules(rf"{torch}{theirs}\.out_proj", f"{ours}/{name}/out"),
        ]
    for i, name in enumerate(norms, start=1):
        rules += _layer_norm_rules(f"{torch}norm{i}", f"{ours}/{name}")
    return rules


def detr_rules() -> list[Rule]:
    """`detr_resnet50`."""
    return [
        *resnet_rules(r"backbone\.0\.body\.", "backbone", "frozen_batch"),
        *conv_rules("input_proj", "head/input"),
        Rule(r"query_embed\.weight", "params/head/queries"),
        *_layer_rules("encoder", {"self_attn": "self"}, ("self_norm", "norm")),
        *_layer_rules("decoder", {"self_attn": "self", "multihead_attn": "cross"}, ("self_norm", "cross_norm", "norm")),
        *_layer_norm_rules(r"transformer\.decoder\.norm", "head/transformer/norm"),
        *dense_rules("class_embed", "head/class"),
        *dense_rules(r"bbox_embed\.layers\.(\d)", r"head/box\1"),
    ]
