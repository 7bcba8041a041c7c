"""Scores of poses where each image shows one person: shares of correct joints (PCK, PDJ, PCKh), and the mean OKS.

The three shares differ in the length that an error is compared with:

    box     PCK (Yang and Ramanan 2013): the larger side of the person's box
    torso   PDJ (Sapp and Taskar 2013; Toshev and Szegedy 2014, section 4): left shoulder to right hip, or where one of
            them is not labelled the other diagonal
    head    PCKh (Andriluka et al. 2014): the head's segment, here from neck to top of the head
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from segjax.data.source import Annotations
from segjax.evaluation.coco_tables import sigmas
from segjax.evaluation.evaluator import DetectionCollector

Length = Literal["box", "torso", "head"]
SEGMENTS: dict[Length, tuple[tuple[str, str], ...]] = {
    "torso": (("left_shoulder", "right_hip"), ("right_shoulder", "left_hip")),
    "head": (("neck", "head_top"),),
}
"""The joints between which a length is taken: the first pair of which both are labelled."""


class PoseErrors(NamedTuple):
    """Of `n` persons with a labelled joint."""

    distances: Float[np.ndarray, "n k"]
    """Pixels from the joint found to the true one; infinite where nothing is found, NaN where it is not labelled."""
    truths: tuple[Annotations, ...]
    """The person of each row, and nobody else."""


def pose_errors(collector: DetectionCollector) -> PoseErrors:
    """How far off the joints of the best detection of each image are, over the images seen.

    Crowd and difficult objects do not count, nor do images without a person.

    Raises:
        ValueError: the source has no joints or an image with several persons, or the detections have no joints.
    """
    source, found = collector.source, collector.collected()
    if source.keypoints is None:
        raise ValueError(f"the data set {source.name!r} has no joints to score poses by; read it with keypoints")
    if found.keypoints is None and len(found.scores):
        raise ValueError("the model gives no joints to score; leave the scores of poses out")
    best: dict[int, int] = {}
    for row in np.argsort(-found.scores, kind="stable").tolist():
        best.setdefault(int(found.samples[row]), row)
    distances, truths = [], []
    for sample in collector.seen:
        truth = source.annotations(sample)
        persons = truth.counted & (truth.keypoints[..., 2] > 0).any(axis=1)
        if persons.sum() > 1:
            raise ValueError(
                f"image {source.info(sample).image_id!r} shows {persons.sum()} persons, and these scores are for one "
                "an image: crop to them (segjax.data.crops, --data.crops)"
            )
        for i in np.flatnonzero(persons).tolist():
            true, off = truth.keypoints[i], np.full(len(truth.keypoints[i]), np.inf)
            if sample in best:
                off = np.linalg.norm(found.keypoints[best[sample], :, :2].astype(np.float64) - true[:, :2], axis=-1)
            distances.append(np.where(true[:, 2] > 0, off, np.nan))
            truths.append(truth.only(i))
    joints = len(source.keypoints.names)
    return PoseErrors(np.array(distances, np.float64).reshape(-1, joints), tuple(truths))


def correct_joints(errors: PoseErrors, names: tuple[str, ...], *, alpha: float, length: Length) -> dict[str, float]:
    """The share of each joint's labelled occurrences that are found within `alpha` times a length, and their "mean".

    Args:
        errors: of `pose_errors`.
        names: of the joints.
        alpha: share of the length; an error of just this much is still correct.
        length: what errors are compared with. A person of whom it cannot be told, or is 0, does not count.

    Returns:
        Shares by joint, NaN for one that is never labelled; "mean" is that of the others.

    Raises:
        ValueError: alpha is not positive, or the length is of joints that are not among the names.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    if length != "box" and not has_length(names, length):
        raise ValueError(f"the length {length!r} is between joints called {SEGMENTS[length]}; there are {names}")
    lengths = np.array([_length(truth, names, length) for truth in errors.truths])
    counted = ~np.isnan(errors.distances) & (lengths > 0)[:, None]
    right = counted & (np.nan_to_num(errors.distances, nan=np.inf) <= alpha * lengths[:, None])
    number = counted.sum(axis=0)
    shares = np.where(number > 0, right.sum(axis=0) / np.maximum(number, 1), np.nan)
    mean = float(shares[number > 0].mean()) if number.any() else float("nan")
    return {**dict(zip(names, shares.tolist())), "mean": mean}


def mean_oks(errors: PoseErrors, sigma: tuple[float, ...]) -> float:
    """The mean object keypoint similarity (COCO's), 0 for a person who is not found; NaN without persons.

    Args:
        errors: of `pose_errors`.
        sigma: standard deviation of each joint, as a share of the square root of the object's area.
    """
    if not errors.truths:
        return float("nan")
    areas = np.array([truth.areas[0] for truth in errors.truths], np.float64)
    variances = np.square(2 * np.asarray(sigma))
    # COCO's own guard against objects without area.
    exponents = np.square(errors.distances) / variances / (areas[:, None] + np.spacing(1)) / 2
    return float(np.nanmean(np.exp(-exponents), axis=1).mean())


def has_length(names: tuple[str, ...], length: Length) -> bool:
    """Whether the joints that a length is taken between are among the names."""
    return length == "box" or any(a in names and b in names for a, b in SEGMENTS[length])


def pose_scores(collector: DetectionCollector, *, alphas: tuple[float, ...] = (0.2, 0.5)) -> dict[str, float]:
    """All of them by name, "PDJ@0.2" for the mean over joints and "PDJ@0.2/<joint>" for each.

    PDJ where the torso's joints are named, else PCK; PCKh@0.5 where the head's are; mean_OKS. With no image seen all
    are NaN.

    Raises:
        ValueError: as `pose_errors`.
    """
    errors, names = pose_errors(collector), collector.source.keypoints.names
    main, length = ("PDJ", "torso") if has_length(names, "torso") else ("PCK", "box")
    wanted = [(f"{main}@{alpha:g}", alpha, length) for alpha in alphas]
    wanted += [("PCKh@0.5", 0.5, "head")] if has_length(names, "head") else []
    scores = {"mean_OKS": mean_oks(errors, sigmas(collector.source))}
    for name, alpha, compared in wanted:
        shares = correct_joints(errors, names, alpha=alpha, length=compared)
        scores[name] = shares.pop("mean")
        scores |= {f"{name}/{joint}": share for joint, share in shares.items()}
    return scores


def _length(truth: Annotations, names: tuple[str, ...], length: Length) -> float:
    """In pixels; NaN where the joints are not labelled."""
    if length == "box":
        return float((truth.boxes[0, 2:] - truth.boxes[0, :2]).max())
    points = dict(zip(names, truth.keypoints[0].astype(np.float64)))
    for a, b in SEGMENTS[length]:
        if a in points and b in points and points[a][2] > 0 and points[b][2] > 0:
            return float(np.linalg.norm(points[a][:2] - points[b][:2]))
    return float("nan")
