"""Faster R-CNN (Ren et al. 2016) on a feature pyramid (Lin et al. 2017), from images to detections in one program."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, UInt8

from segjax.models.heads.box import BoxHead, BoxOutputs, BoxSettings, box_losses, detect, sample_rois
from segjax.models.heads.rpn import RPNHead, RPNOutputs, RPNSettings, propose, rpn_losses
from segjax.models.layers.fpn import FPN
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, normalize
from segjax.models.layers.resnet import ResNet
from segjax.ops.anchors import pyramid_anchors
from segjax.ops.roi import multilevel_roi_align
from segjax.types import Batch, Detections, Losses, Model, Variables


class PoolSettings(NamedTuple):
    """How the features of a region are pooled: RoIAlign over the levels of the pyramid."""

    size: int = 7
    """Side of the pooled map."""
    sampling_ratio: int = 2
    """Samples per bin and axis."""
    canonical_size: float = 224.0
    """Side in pixels of the boxes that are pooled from the level of stride 16 (Lin et al. 2017, eq. 1)."""


class FasterRCNN(nn.Module):
    """The network: what has parameters, and nothing else. Targets, losses and decoding are functions beside it."""

    backbone: nn.Module
    neck: nn.Module
    rpn: nn.Module
    box: nn.Module

    def pyramid(self, images: Float[Array, "b h w 3"], *, train: bool = False) -> list[Float[Array, "b _ _ c"]]:
        """Feature maps of normalised images, finest first; the last one is for the RPN alone."""
        return self.neck(self.backbone(images, train=train))

    def region_proposals(self, features: list[Float[Array, "b _ _ c"]]) -> RPNOutputs:
        """Objectness and box deltas of every anchor."""
        return self.rpn(features)

    def box_outputs(self, rois: Float[Array, "b s oh ow c"]) -> BoxOutputs:
        """Classes and box deltas of pooled regions."""
        return self.box(rois)

    def initialize(self, images: Float[Array, "b h w 3"], pool: int) -> None:
        """Touches every parameter, for `init`."""
        features = self.pyramid(images)
        self.region_proposals(features)
        self.box_outputs(jnp.zeros((1, 1, pool, pool, features[0].shape[-1]), features[0].dtype))


def faster_rcnn(
    classes: int,
    *,
    backbone: nn.Module | None = None,
    neck: nn.Module | None = None,
    rpn_head: nn.Module | None = None,
    box_head: nn.Module | None = None,
    channels: int = 256,
    hidden: int = 1024,
    rpn: RPNSettings = RPNSettings(),
    box: BoxSettings = BoxSettings(),
    pool: PoolSettings = PoolSettings(),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Faster R-CNN with an FPN neck, trained jointly. The defaults are torchvision's `fasterrcnn_resnet50_fpn`.

    Args:
      classes: number of classes, without background.
      backbone: a module from normalised images to maps of rising stride, with a `strides` attribute; ResNet-50 with
        frozen batch norm by default.
      neck: a module from the backbone's maps to as many maps of equal channels and one coarser; an `FPN` by default.
      rpn_head: a module from the neck's maps to `RPNOutputs`; an `RPNHead` by default.
      box_head: a module from pooled regions [b, s, oh, ow, c] to `BoxOutputs`; a `BoxHead` by default.
      channels: channels of the pyramid.
      hidden: width of the box head's two hidden layers.
      rpn, box, pool: the numbers of the two stages. `rpn.anchor_sizes` has one entry per backbone map and one more.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of the convolutions and matrix products; boxes, losses and scores are float32 always.

    Returns:
      A `Model` with the losses `rpn_objectness`, `rpn_box`, `class` and `box`, and `Detections` as predictions.
      Image sides should be multiples of 32, as the data pipeline makes them.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; a detector needs at least one, the background not counted.")
    backbone = ResNet(depth=50, dtype=dtype) if backbone is None else backbone
    levels = len(backbone.strides) + 1
    if len(rpn.anchor_sizes) != levels:
        raise ValueError(
            f"rpn.anchor_sizes has {len(rpn.anchor_sizes)} entries for {levels} pyramid levels; give one tuple each."
        )
    per_position = len(rpn.anchor_sizes[0]) * len(rpn.ratios)
    network = FasterRCNN(
        backbone=backbone,
        neck=FPN(channels, dtype=dtype) if neck is None else neck,
        rpn=RPNHead(per_position, dtype=dtype) if rpn_head is None else rpn_head,
        box=BoxHead(classes, hidden, dtype=dtype) if box_head is None else box_head,
    )
    prepare = functools.partial(normalize, mean=mean, std=std, dtype=dtype)

    def anchors_of(images: Array, features: list[Array]) -> list[Array]:
        # Strides are measured, not assumed, so that odd map sizes get the anchors that torchvision gives them.
        height, width = images.shape[1:3]
        shapes = [(f.shape[1], f.shape[2]) for f in features]
        strides = [(height // h, width // w) for h, w in shapes]
        return pyramid_anchors(shapes, strides=strides, sizes=rpn.anchor_sizes, ratios=rpn.ratios)

    def pooled(features: list[Array], boxes: Array, valid: Array) -> Array:
        of_image = functools.partial(
            multilevel_roi_align,
            output_size=pool.size,
            strides=backbone.strides,
            sampling_ratio=pool.sampling_ratio,
            canonical_size=pool.canonical_size,
        )
        return jax.vmap(lambda f, b, v: of_image(f, b, valid=v))(features[:-1], boxes, valid)

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        images = prepare(batch.images[:1], batch.sizes[:1])
        return dict(network.init(key, images, pool.size, method="initialize"))

    def losses(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Losses, Variables]:
        keys = jax.vmap(lambda sample: jax.random.split(jax.random.fold_in(key, sample)))(
            batch.samples.astype(jnp.uint32)
        )
        images = prepare(batch.images, batch.sizes)
        features, updates = network.apply(variables, images, train=True, method="pyramid", mutable=["batch_stats"])
        outputs = network.apply(variables, features, method="region_proposals")
        anchors = anchors_of(images, features)
        terms = rpn_losses(keys[:, 0], outputs, anchors, batch.instances, rpn)
        proposals = propose(outputs, anchors, batch.sizes, rpn, train=True)
        rois = sample_rois(keys[:, 1], proposals, batch.instances, box)
        heads = network.apply(variables, pooled(features, rois.boxes, rois.chosen.valid), method="box_outputs")
        return terms | box_losses(heads, rois, batch.instances, box), {**variables, **updates}

    def predict(
        variables: Variables, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"], sizes: Int[Array, "b 2"]
    ) -> Detections:
        images = prepare(images, sizes)
        features = network.apply(variables, images, method="pyramid")
        outputs = network.apply(variables, features, method="region_proposals")
        proposals = propose(outputs, anchors_of(images, features), sizes, rpn, train=False)
        heads = network.apply(variables, pooled(features, proposals.boxes, proposals.valid), method="box_outputs")
        return detect(heads, proposals, sizes, box)

    return Model(init, losses, predict)
