"""DeepPose (Toshev and Szegedy 2014): the joints of a person as a regression from the pixels, and a cascade of such."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from segjax.losses import masked_sum, safe_divide
from segjax.models.layers.normalize import IMAGENET_MEAN, IMAGENET_STD, normalize
from segjax.models.parts import Parts
from segjax.ops import poses
from segjax.types import Batch, Detections, Losses, Model, Variables

CERTAIN = 10.0
"""Score of every joint. A regression does not say how sure it is; on the scale that joints have elsewhere, that of the
logits of heat maps, this is as good as certain."""
ERRORS = "pose_errors"
"""The collection of variables with the moments of each stage's errors, which the next one is trained with."""


@dataclasses.dataclass(frozen=True)
class PoseSettings:
    """What the stages see, and how the later ones are trained."""

    side: int = 220
    """Pixels along each side of what the first stage sees, to which the person's box is resized."""
    stages: int = 1
    """The first predicts the pose from the whole box, each further one a displacement of each joint from around it."""
    crop_side: int = 220
    """Pixels along each side of what later stages see around a joint."""
    sigma: float = 1.0
    """Side of what is seen around a joint, in diameters of the pose (`segjax.ops.poses.diameter`). The paper has 1.0 on
    FLIC and 2.0 on LSP, of the diameter of the torso."""
    torso: tuple[int, int] | None = None
    """The joints whose distance is the diameter: the left shoulder and the right hip in the paper. Without, it is the
    diagonal of the box around all joints."""
    decay: float = 0.99
    """Of the moving averages of errors, a step."""


class Pose(NamedTuple):
    """What a batch says of the person in each image."""

    joints: Float[Array, "b k 2"]
    """(x, y) in pixels."""
    labelled: Bool[Array, "b k"]


def pose_regression(
    joints: int,
    *,
    backbone: nn.Module,
    head: nn.Module,
    crop_backbone: nn.Module | None = None,
    crop_head: nn.Module | None = None,
    settings: PoseSettings = PoseSettings(),
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """A model that finds one pose in each image, which shows one person: the image, without padding, is its box b.

    The first stage (section 3.1) sees all of b and predicts N(y; b). Stage s > 1 (section 3.2) sees the square of
    sigma * diam(y) around joint i where stage s - 1 has it, and predicts the displacement to where it is, in units of
    the square. Each stage has parameters of its own, one network for all its joints, of whose outputs that of the
    joint in the middle counts. All squares are cut out of the same image, of the batch's resolution.

    Later stages are trained on simulated predictions (equation 7): each joint is displaced from its true place by a
    draw from a normal distribution with the mean and variance of the former stage's errors, in units of b and each axis
    by itself. diam is that of the true pose, in which joints without a label are where the first stage has them: draws
    that know nothing of each other would make it larger. Departures from the paper, so that all stages train at once:
    the moments are moving averages over the batches; the errors of a later stage are those it makes on simulated
    predictions.

    Args:
      joints: k, their number.
      backbone: a module from normalised images to maps.
      head: a module from these maps to 2k numbers an image: (x, y) of each joint, float32.
      crop_backbone, crop_head: the same for the squares around joints; the first stage's kind by default.
      settings: see there.
      mean, std: channel statistics of the images, in 0..1.
      dtype: of what the networks are given.

    Returns:
      A `Model` with the loss `pose`, and `pose_stage2`, ... of a cascade: the squared distance in the frame of what
      the stage sees (equation 4), the sum over labelled joints, the mean over images that have one. Of several objects
      in an image the first is learnt. It predicts `Detections` of one row: the pose, class 0, the box around its
      joints, score 1. The variables are in parts "backbone" and "head", "backbone2" and "head2", ...

    Raises:
      ValueError: no joint or stage, a side, sigma or decay out of range, joints of the torso that there are not; when
        it is traced, a head that does not give 2k numbers, or a batch without such joints.
    """
    _check(joints, settings)
    modules = {"backbone": backbone, "head": head}
    for stage in range(2, settings.stages + 1):
        modules |= dict(zip(_names(stage), (crop_backbone or backbone, crop_head or head)))
    cascade = Cascade(Parts(modules), joints, settings, mean, std, dtype)
    return Model(cascade.init, cascade.losses, cascade.predict)


@dataclasses.dataclass(frozen=True)
class Cascade:
    """The stages' networks, what each sees, and what its numbers mean."""

    parts: Parts
    """Two a stage, named by `_names`."""
    joints: int
    settings: PoseSettings
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dtype: DTypeLike

    def init(self, key: Key[Array, ""], batch: Batch) -> Variables:
        """See `Model.init`."""
        del batch  # of any size: what the stages see has a size of its own
        variables: Variables = {}
        for stage in range(1, self.settings.stages + 1):
            names, side = _names(stage), self._side(stage)
            features, variables = self.parts.init(key, variables, names[0], jnp.zeros((1, side, side, 3), self.dtype))
            numbers, variables = self.parts.init(key, variables, names[1], features)
            self._points(numbers, 1)
        if self.settings.stages > 1:
            # Errors of a tenth of the box, until they are known.
            start = {"mean": jnp.zeros((self.joints, 2)), "square": jnp.full((self.joints, 2), 0.1**2, jnp.float32)}
            variables[ERRORS] = {f"stage{stage}": start for stage in range(1, self.settings.stages)}
        return variables

    def losses(self, variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Losses, Variables]:
        """See `Model.losses`."""
        truth, images = pose_of(batch, self.joints), self._prepared(batch.images, batch.sizes)
        box = whole_boxes(batch.sizes)
        numbers, variables = self._trained(key, variables, 1, images, box)
        pose = self._points(numbers, 1)[:, 0]
        frame = jnp.broadcast_to(box, (*pose.shape[:2], 4))
        terms = {"pose": pose_loss(pose, poses.to_frame(truth.joints, frame), truth.labelled)}
        first = former = jax.lax.stop_gradient(poses.from_frame(pose, frame))
        known = jnp.where(truth.labelled[..., None], truth.joints, first)
        for stage in range(2, self.settings.stages + 1):
            error = (former - truth.joints) / (frame[..., 2:] - frame[..., :2])
            moments = variables[ERRORS][f"stage{stage - 1}"]
            moments = moved(moments, error, truth.labelled, decay=self.settings.decay)
            variables = {**variables, ERRORS: {**variables[ERRORS], f"stage{stage - 1}": moments}}
            squares = self._around(simulate(jax.random.fold_in(key, stage), truth, first, frame, moments), known)
            numbers, variables = self._trained(key, variables, stage, images, squares)
            moves = self._own(numbers)
            terms[f"pose_stage{stage}"] = pose_loss(moves, poses.to_frame(truth.joints, squares), truth.labelled)
            former = jax.lax.stop_gradient(poses.from_frame(moves, squares))
        return terms, variables

    def predict(
        self, variables: Variables, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"], sizes: Int[Array, "b 2"]
    ) -> Detections:
        """See `Model.predict`."""
        x, box = self._prepared(images, sizes), whole_boxes(sizes)
        pose = self._points(self._predicted(variables, 1, x, box), 1)[:, 0]
        pose = poses.from_frame(pose, jnp.broadcast_to(box, (*pose.shape[:2], 4)))
        for stage in range(2, self.settings.stages + 1):
            squares = self._around(pose)
            pose = poses.from_frame(self._own(self._predicted(variables, stage, x, squares)), squares)
        return as_detections(pose, sizes)

    def _side(self, stage: int) -> int:
        return self.settings.side if stage == 1 else self.settings.crop_side

    def _prepared(self, images: Array, sizes: Array) -> Float[Array, "b h w 3"]:
        return normalize(images, sizes, mean=self.mean, std=self.std)

    def _seen(self, images: Array, boxes: Float[Array, "b n 4"], stage: int) -> Float[Array, "b*n side side 3"]:
        side = self._side(stage)
        patches = jax.vmap(lambda image, of_image: poses.crop(image, of_image, side=side))(images, boxes)
        return patches.reshape(-1, side, side, 3).astype(self.dtype)

    def _trained(
        self, key: Array, variables: Variables, stage: int, images: Array, boxes: Array
    ) -> tuple[Array, Variables]:
        names = _names(stage)
        features, variables = self.parts.train(key, variables, names[0], self._seen(images, boxes, stage))
        return self.parts.train(key, variables, names[1], features)

    def _predicted(self, variables: Variables, stage: int, images: Array, boxes: Array) -> Array:
        names = _names(stage)
        return self.parts(variables, names[1], self.parts(variables, names[0], self._seen(images, boxes, stage)))

    def _points(self, numbers: Array, patches: int) -> Float[Array, "b patches k 2"]:
        """What the head says of all joints from each patch of an image."""
        k = self.joints
        if numbers.ndim != 2 or numbers.shape[1] != 2 * k:
            raise ValueError(f"the head gives {numbers.shape[1:]} numbers an image; {k} joints are {2 * k}.")
        return numbers.astype(jnp.float32).reshape(-1, patches, k, 2)

    def _own(self, numbers: Array) -> Float[Array, "b k 2"]:
        """Of the patch around each joint what is said of that joint."""
        own = jnp.arange(self.joints)
        return self._points(numbers, self.joints)[:, own, own]

    def _around(
        self, pose: Float[Array, "b k 2"], reference: Float[Array, "b k 2"] | None = None
    ) -> Float[Array, "b k 4"]:
        settings = self.settings
        return poses.joint_boxes(pose, sigma=settings.sigma, torso=settings.torso, reference=reference)


def whole_boxes(sizes: Int[Array, "b 2"]) -> Float[Array, "b 1 4"]:
    """The box that is all of each image, without its padding."""
    ends = sizes[:, None, ::-1].astype(jnp.float32)
    return jnp.concatenate([jnp.zeros_like(ends), ends], axis=-1)


def pose_of(batch: Batch, joints: int) -> Pose:
    """The first object's joints; none is labelled where an image has no object.

    Raises:
      ValueError: the batch carries no joints, or another number of them.
    """
    points = batch.instances.keypoints
    if points is None:
        raise ValueError("this model is trained on joints, and the batch has none: ask for keypoints.")
    if points.shape[-2] != joints:
        raise ValueError(f"this model finds {joints} joints, and the objects of the batch have {points.shape[-2]}.")
    valid = jnp.asarray(batch.instances.valid)
    first = jnp.argmax(valid, axis=1)
    points = jnp.take_along_axis(jnp.asarray(points), first[:, None, None, None], axis=1)[:, 0]
    return Pose(points[..., :2], (points[..., 2] > 0) & valid.any(axis=1)[:, None])


def pose_loss(
    predicted: Float[Array, "b k 2"], wanted: Float[Array, "b k 2"], labelled: Bool[Array, "b k"]
) -> Float[Array, ""]:
    """Squared distance, summed over the labelled joints, the mean over the images that have one (equation 4)."""
    distances = jnp.sum(jnp.square(predicted - wanted), axis=-1)
    return safe_divide(masked_sum(distances, labelled), jnp.sum(labelled.any(axis=1), dtype=jnp.float32))


def moved(
    moments: dict[str, Float[Array, "k 2"]],
    errors: Float[Array, "b k 2"],
    labelled: Bool[Array, "b k"],
    *,
    decay: float,
) -> dict[str, Float[Array, "k 2"]]:
    """The moving averages of the errors and of their squares, with this batch's; a joint that it lacks keeps its."""
    count = labelled.sum(axis=0, dtype=jnp.float32)[:, None]
    values = {"mean": errors, "square": jnp.square(errors)}

    def average(old: Array, value: Array) -> Array:
        new = jnp.sum(jnp.where(labelled[..., None], value, 0.0), axis=0) / jnp.maximum(count, 1.0)
        return jnp.where(count > 0, decay * old + (1 - decay) * new, old)

    return {name: average(moments[name], values[name]) for name in values}


def simulate(
    key: Key[Array, ""],
    truth: Pose,
    otherwise: Float[Array, "b k 2"],
    frame: Float[Array, "b k 4"],
    moments: dict[str, Float[Array, "k 2"]],
) -> Float[Array, "b k 2"]:
    """Simulated predictions: true joints displaced by normal draws of these moments, in units of `frame`'s sides.

    Joints without a label are where `otherwise` has them.
    """
    variance = jnp.maximum(moments["square"] - jnp.square(moments["mean"]), 0.0)
    noise = jax.random.normal(key, truth.joints.shape) * jnp.sqrt(variance)[None] + moments["mean"][None]
    displaced = truth.joints + noise * (frame[..., 2:] - frame[..., :2])
    return jnp.where(truth.labelled[..., None], displaced, otherwise)


def as_detections(pose: Float[Array, "b k 2"], sizes: Int[Array, "b 2"]) -> Detections:
    """One detection an image: the pose, and the box around its joints inside the image, of a pixel at least."""
    limit = sizes[:, ::-1].astype(jnp.float32)
    low = jnp.clip(pose.min(axis=1), 0.0, limit - 1)
    high = jnp.clip(pose.max(axis=1), low + 1, limit)
    rows = (pose.shape[0], 1)
    score = jnp.full((*pose.shape[:2], 1), CERTAIN, jnp.float32)
    return Detections(
        boxes=jnp.concatenate([low, high], axis=-1)[:, None],
        scores=jnp.ones(rows),
        labels=jnp.zeros(rows, jnp.int32),
        valid=jnp.ones(rows, bool),
        keypoints=jnp.concatenate([pose, score], axis=-1)[:, None],
    )


def _names(stage: int) -> tuple[str, str]:
    """Of a stage's parts."""
    number = "" if stage == 1 else str(stage)
    return f"backbone{number}", f"head{number}"


def _check(joints: int, settings: PoseSettings) -> None:
    for name, value in (("joints", joints), *((n, getattr(settings, n)) for n in ("side", "stages", "crop_side"))):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    if settings.sigma <= 0 or not 0 <= settings.decay < 1:
        raise ValueError(f"sigma is {settings.sigma} and must be above 0, decay {settings.decay} and lie in 0..1.")
    if settings.stages > 1 and settings.torso is not None and not all(0 <= joint < joints for joint in settings.torso):
        raise ValueError(f"torso is {settings.torso}, and there are the joints 0 to {joints - 1}.")
