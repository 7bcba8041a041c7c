"""Names of joints: COCO's, and which of them change places in a mirrored image."""

_JOINTS = (
    ("nose", 0.026),
    ("left_eye", 0.025),
    ("right_eye", 0.025),
    ("left_ear", 0.035),
    ("right_ear", 0.035),
    ("left_shoulder", 0.079),
    ("right_shoulder", 0.079),
    ("left_elbow", 0.072),
    ("right_elbow", 0.072),
    ("left_wrist", 0.062),
    ("right_wrist", 0.062),
    ("left_hip", 0.107),
    ("right_hip", 0.107),
    ("left_knee", 0.087),
    ("right_knee", 0.087),
    ("left_ankle", 0.089),
    ("right_ankle", 0.089),
)
COCO_SIGMAS = dict(_JOINTS)
"""COCO's 17 joints in order, each with its standard deviation in the OKS, as `pycocotools.cocoeval.Params` has them."""


def flip_pairs(names: tuple[str, ...]) -> tuple[int, ...]:
    """The joint that each becomes in a mirrored image: `left_x` and `right_x` change places, others stay."""
    mirrored = [_swapped(name) for name in names]
    return tuple(names.index(m) if m in names else i for i, m in enumerate(mirrored))


def _swapped(name: str) -> str:
    if "left" in name:
        return name.replace("left", "right")
    return name.replace("right", "left")
