"""Two-stage detectors put together: a trunk of shared features, region proposals, and heads on regions.

Each stage is a few pure functions over named parts of one network. All three make Faster R-CNN and its kin; without the
second, proposals come from outside (Fast R-CNN); without the third, it is a region proposal network alone.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, UInt8

from segjax.models.checks import check_head, check_losses, check_rows
from segjax.models.chunks import in_chunks
from segjax.models.heads.roi import RoIHead, SamplingSettings, pool_rois, sample_rois
from segjax.models.heads.rpn import RPNSettings, propose, rpn_losses
from segjax.models.parts import Parts
from segjax.models.trunk import Features, Trunk
from segjax.ops.anchors import pyramid_anchors
from segjax.types import Batch, Detections, Losses, Model, Proposals, Variables

Keys = Key[Array, "b"]


class RegionProposals(NamedTuple):
    """From maps to candidate boxes."""

    network: nn.Module
    """(maps, train) -> `RPNOutputs`."""
    settings: RPNSettings

    def anchors(self, shape: tuple[int, int], features: Features) -> list[Float[Array, "_ 4"]]:
        """The anchors of every map, for images of `shape` (height, width)."""
        # Strides are measured, not assumed, so that odd map sizes get the anchors that torchvision gives them.
        if len(features) != len(self.settings.anchor_sizes):
            raise ValueError(
                f"rpn.anchor_sizes has {len(self.settings.anchor_sizes)} entries for {len(features)} feature maps; "
                "give one tuple each."
            )
        shapes = [(f.shape[1], f.shape[2]) for f in features]
        strides = [(shape[0] // h, shape[1] // w) for h, w in shapes]
        return pyramid_anchors(shapes, strides=strides, sizes=self.settings.anchor_sizes, ratios=self.settings.ratios)


class Regions(NamedTuple):
    """From maps and candidate boxes to detections: heads, called in order."""

    heads: Mapping[str, RoIHead]
    sampling: SamplingSettings
    strides: tuple[int, ...]
    """Of the maps that regions are pooled from, which are the first ones."""

    def init(self, key: Key[Array, ""], parts: Parts, variables: Variables, channels: int) -> Variables:
        """`variables` with those of every head."""
        for name, head in self.heads.items():
            features = jnp.zeros((1, 1, *head.pool.shape, channels), jnp.float32)
            _, variables = parts.init(key, variables, name, features, valid=jnp.ones((1, 1), bool))
        return variables

    def losses(
        self,
        keys: Keys,
        key: Key[Array, ""],
        parts: Parts,
        variables: Variables,
        features: Features,
        proposals: Proposals,
        batch: Batch,
    ) -> tuple[Losses, Variables]:
        """The terms of all heads on regions sampled from the proposals. `keys`: one an image; `key`: for dropout."""
        sampled = sample_rois(keys, proposals, batch.instances, self.sampling)
        terms: Losses = {}
        for name, head in self.heads.items():
            rois = jax.tree.map(lambda x: x[:, : self.sampling.positives], sampled) if head.positives_only else sampled
            used = rois.positive if head.positives_only else rois.valid

            def trained(i: Array | None, boxes: Array, valid: Array, variables: Variables, name=name, head=head) -> Any:
                pooled = self._pooled(head, features, boxes, valid, batch.sizes)
                own = key if i is None else jax.random.fold_in(key, i)
                return parts.train(own, variables, name, pooled, valid=valid)

            outputs, variables = in_chunks(trained, rois.boxes, used, variables, count=head.pool.chunk)
            check_rows(f"the network of head {name!r}", outputs, used.shape, ROWS)
            try:
                targets = jax.lax.stop_gradient(jax.vmap(head.targets)(rois, batch.instances, batch.sizes))
            except KeyError as error:
                raise ValueError(
                    f"head {name!r} asks for {error} of the objects, and the batch has no such thing; name it in the "
                    "model's `fields`."
                ) from error
            found = check_losses(name, head.losses(outputs, targets, rois))
            if repeated := terms.keys() & found.keys():
                raise ValueError(f"two heads have a loss called {repeated.pop()!r}; give it another name in {name!r}.")
            terms |= found
        return terms, variables

    def _pooled(self, head: RoIHead, features: Features, boxes: Array, valid: Array, sizes: Array) -> Array:
        return pool_rois(features, boxes, valid, sizes=sizes, strides=self.strides, settings=head.pool)

    def detect(
        self, parts: Parts, variables: Variables, features: Features, proposals: Proposals, sizes: Int[Array, "b 2"]
    ) -> Detections:
        """The detections after the last head."""
        detections = as_detections(proposals)
        for name, head in self.heads.items():
            boxes, valid = detections.boxes, detections.valid

            def predicted(
                i: Array | None, boxes: Array, valid: Array, variables: Variables, name=name, head=head
            ) -> Any:
                del i
                pooled = self._pooled(head, features, boxes, valid, sizes)
                return parts(variables, name, pooled, valid=valid), variables

            outputs, _ = in_chunks(predicted, boxes, valid, variables, count=head.pool.chunk)
            check_rows(f"the network of head {name!r}", outputs, valid.shape, ROWS)
            detections = jax.vmap(head.decode)(outputs, detections, sizes)
            check_rows(f"`decode` of head {name!r}", detections, detections.scores.shape, ROWS)
        return detections


MEMBERS = ("network", "pool", "positives_only", "targets", "losses", "decode")
"""Of a `RoIHead`."""
ROWS = "images and regions"


def as_detections(proposals: Proposals) -> Detections:
    """The proposals as detections of class 0."""
    labels = jnp.zeros(proposals.scores.shape, jnp.int32)
    return Detections(proposals.boxes, proposals.scores, labels, proposals.valid)


def check_given(rpn: RegionProposals | None, proposals: Proposals | None) -> None:
    """`ValueError` unless proposals are given just where the model makes none."""
    if rpn is None and proposals is None:
        raise ValueError("this model makes no proposals, and none are given: set batch.proposals, or data.proposals.")
    if rpn is not None and proposals is not None:
        raise ValueError("proposals are given to a model that makes its own; leave them out, or use fast_rcnn.")


def two_stage(trunk: Trunk, rpn: RegionProposals | None, regions: Regions | None) -> Model:
    """The model made of these stages.

    Args:
      rpn: None where proposals are given with the images: `batch.proposals` in training, `proposals` in prediction.
      regions: None to train a region proposal network alone; it predicts its proposals as detections of class 0.

    Raises:
      ValueError: where a head has the name of another part; from the model, where proposals are missing or given to a
        model that makes its own.
    """
    for name, head in regions.heads.items() if regions else ():
        check_head(name, head, MEMBERS, "RoIHead")
    names = {**trunk.parts, "rpn": rpn.network if rpn else None}
    if taken := names.keys() & (regions.heads if regions else {}):
        raise ValueError(f"a head is called {taken.pop()!r}, as another part of the network is; rename it.")
    heads = {name: head.network for name, head in regions.heads.items()} if regions else {}
    parts = Parts({name: module for name, module in {**names, **heads}.items() if module is not None})

    def init(key: Key[Array, ""], batch: Batch) -> Variables:
        features, variables = trunk.init(key, parts, batch.images[:1], batch.sizes[:1])
        if rpn:
            rpn.anchors(batch.images.shape[1:3], features)  # where the settings do not fit, this says so
            _, variables = parts.init(key, variables, "rpn", features)
        return regions.init(key, parts, variables, features[0].shape[-1]) if regions else variables

    def losses(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Losses, Variables]:
        keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(batch.samples.astype(jnp.uint32))
        check_given(rpn, batch.proposals)
        terms, proposals = {}, batch.proposals
        features, variables = trunk.train(key, parts, variables, batch.images, batch.sizes)
        if rpn:
            outputs, variables = parts.train(key, variables, "rpn", features)
            anchors = rpn.anchors(batch.images.shape[1:3], features)
            terms = rpn_losses(keys[:, 0], outputs, anchors, batch.instances, rpn.settings)
            proposals = propose(outputs, anchors, batch.sizes, rpn.settings, train=True)
        if regions:
            found, variables = regions.losses(keys[:, 1], key, parts, variables, features, proposals, batch)
            terms = {**terms, **found}
        return terms, variables

    def predict(
        variables: Variables,
        images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"],
        sizes: Int[Array, "b 2"],
        proposals: Proposals | None = None,
    ) -> Detections:
        check_given(rpn, proposals)
        features = trunk(parts, variables, images, sizes)
        if rpn:
            anchors = rpn.anchors(images.shape[1:3], features)
            proposals = propose(parts(variables, "rpn", features), anchors, sizes, rpn.settings, train=False)
        return regions.detect(parts, variables, features, proposals, sizes) if regions else as_detections(proposals)

    return Model(init, losses, predict)
