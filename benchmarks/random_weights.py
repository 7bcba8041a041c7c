"""Random weights with which a torch network does something; also what the comparisons of tests/parity start from.

As they are drawn, weights give every box the same score: then NMS and the choice of detections have next to nothing to
do, and comparing results shows little. So the norms get the statistics of images, somewhat perturbed, and the last
layers are scaled and shifted until scores spread, boxes move and masks have edges.
"""

from typing import Any

SCORE_DEVIATION = 1.5
"""Of the class logits, over regions."""


def randomize_norms(network: Any, run: Any) -> None:
    """Gives every batch norm in `network` the statistics of `run()`, somewhat off, and a random scale and shift."""
    import torch

    norms = {name: m for name, m in network.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    momenta = {name: norm.momentum for name, norm in norms.items()}
    for name, norm in norms.items():
        torch.nn.init.uniform_(norm.weight, 0.6, 1.2)
        # Branches that add a little to the trunk, as in trained networks: full ones amplify rounding by 30.
        norm.weight.mul_(0.2 if name.endswith("bn3") else 1)
        torch.nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = 1.0
    network.train()
    run()
    for name, norm in norms.items():
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.7, 1.4))
        norm.running_mean.add_(0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_var))
        norm.momentum = momenta[name]
    network.eval()


def spread(layer: Any, deviation: float, run: Any) -> None:
    """Scales and shifts a last layer so that each of its channels has mean 0 and this deviation during `run()`."""
    import torch

    seen = []
    hook = layer.register_forward_hook(lambda _, __, out: seen.append(out.movedim(1, -1).reshape(-1, out.shape[1])))
    run()
    hook.remove()
    outputs = torch.cat(seen)
    scale = deviation / outputs.std(0)
    # Transposed convolutions have their output channels second.
    axis = 1 if isinstance(layer, torch.nn.ConvTranspose2d) else 0
    layer.weight.mul_(scale.reshape([-1 if i == axis else 1 for i in range(layer.weight.dim())]))
    layer.bias.copy_((layer.bias - outputs.mean(0)) * scale)


def randomize_detector(detector: Any, images: Any, *, background: float, objectness: float = 0.0) -> None:
    """Gives a two-stage detector of torchvision such weights, stage by stage; without gradients, in evaluation mode.

    Args:
        images: what the detector is called with. Its norms get the statistics of these.
        background: what the background's logit has more than the mean of the others.
        objectness: mean of the anchors' logits.
    """
    batch, _ = detector.transform(images)
    rpn, heads = detector.rpn, detector.roi_heads
    randomize_norms(detector.backbone, lambda: detector.backbone(batch.tensors))
    features = detector.backbone(batch.tensors)
    spread(rpn.head.cls_logits, 1.5, lambda: rpn(batch, features))
    spread(rpn.head.bbox_pred, 0.3, lambda: rpn(batch, features))
    rpn.head.cls_logits.bias.add_(objectness)
    proposals, _ = rpn(batch, features)
    classify = lambda: heads.box_predictor(  # noqa: E731
        heads.box_head(heads.box_roi_pool(features, proposals, batch.image_sizes))
    )
    randomize_norms(heads.box_head, classify)
    spread(heads.box_predictor.cls_score, SCORE_DEVIATION, classify)
    spread(heads.box_predictor.bbox_pred, 1.0, classify)
    heads.box_predictor.cls_score.bias[0] += background
    run = lambda: heads(features, proposals, batch.image_sizes)  # noqa: E731
    if heads.has_mask():
        randomize_norms(heads.mask_head, run)
        spread(heads.mask_predictor.mask_fcn_logits, 1.0, run)
    if heads.has_keypoint():
        spread(heads.keypoint_predictor.kps_score_lowres, 3.0, run)


def randomize_segmenter(network: Any, images: Any) -> None:
    """Gives a model of `torchvision.models.segmentation` such weights; without gradients, in evaluation mode.

    Args:
        images: normalised, several of them: what its norms get the statistics of.
    """
    run = lambda: network(images)  # noqa: E731
    randomize_norms(network, run)
    head = network.classifier
    for layer in [head.low_classifier, head.high_classifier] if hasattr(head, "cbr") else [head[-1]]:
        spread(layer, SCORE_DEVIATION, run)
    if getattr(network, "aux_classifier", None) is not None:
        spread(network.aux_classifier[-1], SCORE_DEVIATION, run)


def randomize_pyramid_detector(detector: Any, images: Any, *, logit: float) -> None:
    """Gives torchvision's RetinaNet or FCOS such weights; without gradients, in evaluation mode.

    The output for label 0, which no object has and ours is without, is made to be silent.

    Args:
        images: what the detector is called with. Its norms get the statistics of these.
        logit: mean of the class logits. Their deviation is 2.5.
    """
    import torch

    batch, _ = detector.transform(images)
    randomize_norms(detector.backbone, lambda: detector.backbone(batch.tensors))
    features = list(detector.backbone(batch.tensors).values())
    classes, boxes = detector.head.classification_head, detector.head.regression_head
    run = lambda: detector.head(features)  # noqa: E731
    spread(classes.cls_logits, 2.5, run)
    classes.cls_logits.bias.add_(logit)
    for of_anchor in (classes.cls_logits.weight, classes.cls_logits.bias):
        torch.nn.init.zeros_(of_anchor.view(-1, classes.num_classes, *of_anchor.shape[1:])[:, 0])
    classes.cls_logits.bias.view(-1, classes.num_classes)[:, 0] = -1e4
    if hasattr(boxes, "bbox_ctrness"):
        spread(boxes.bbox_ctrness, 1.0, run)
        # Distances in units of the level, nearly all of them above 0.
        spread(boxes.bbox_reg, 1.0, run)
        boxes.bbox_reg.bias.add_(2.5)
    else:
        spread(boxes.bbox_reg, 0.3, run)


def randomize_ssd(detector: Any, images: Any, *, background: float) -> None:
    """Gives torchvision's SSD or SSDLite such weights; without gradients, in evaluation mode.

    Args:
        images: what the detector is called with, at its size, several of them. Its norms get the statistics of these.
        background: what the background's logit has more than the mean of the others.
    """
    batch, _ = detector.transform(images)
    maps = lambda: list(detector.backbone(batch.tensors).values())  # noqa: E731
    randomize_norms(detector, lambda: detector.head(maps()))
    features = maps()
    classes, boxes = detector.head.classification_head, detector.head.regression_head
    for head, deviation in ((classes, SCORE_DEVIATION), (boxes, 1.0)):
        for layer in _last_layers(head):
            spread(layer, deviation, lambda: head(features))  # noqa: B023
    for layer in _last_layers(classes):
        layer.bias.view(-1, classes.num_columns)[:, 0] += background


def _last_layers(head: Any) -> list[Any]:
    """Of one of SSD's heads, for each map; SSDLite has another convolution before it."""
    import torch

    return [layer[-1] if isinstance(layer, torch.nn.Sequential) else layer for layer in head.module_list]
