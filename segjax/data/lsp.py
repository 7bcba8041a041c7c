"""Leeds Sports Pose (Johnson and Everingham 2010) and its extended training set (2011): `joints.mat` and images."""

import os
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np
import scipy.io
from jaxtyping import Float, UInt8

from segjax.data.images import FileFault, Folder, decode, read_size
from segjax.data.joints import flip_pairs
from segjax.data.sanitize import ROUNDING, clean_boxes
from segjax.data.source import Annotations, DataError, ImageInfo, KeypointNames, Problems

CLASS = "person"
JOINTS = (
    *("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle"),
    *("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow", "left_wrist"),
    *("neck", "head_top"),
)
"""In the order of the file. Left and right are the person's."""
BONES = (
    *(
        ("right_ankle", "right_knee"),
        ("right_knee", "right_hip"),
        ("left_ankle", "left_knee"),
        ("left_knee", "left_hip"),
    ),
    *(("right_wrist", "right_elbow"), ("right_elbow", "right_shoulder"), ("left_wrist", "left_elbow")),
    *(("left_elbow", "left_shoulder"), ("right_shoulder", "neck"), ("left_shoulder", "neck"), ("neck", "head_top")),
    *(("right_hip", "right_shoulder"), ("left_hip", "left_shoulder"), ("right_hip", "left_hip")),
)
KEYPOINTS = KeypointNames(
    JOINTS, tuple((JOINTS.index(a), JOINTS.index(b)) for a, b in BONES), flip_pairs(JOINTS), sigmas=None
)
Third = Literal["occluded", "visible"]
_FILE = re.compile(r"im(\d+)\.(jpg|jpeg|png)", re.IGNORECASE)


class LspSource:
    """One person in each of some images. Implements `segjax.data.source.Source`.

        joints.mat            "joints", 3 x 14 x N (LSP) or 14 x 3 x N (extended): x, y and a flag of each joint
        images/im0001.jpg     the first of the N images, whatever the number of zeros

    What the flag says is not in the file: 1 marks a hidden joint in LSP, and one that can be seen in the extended set.
    A hidden joint of LSP has its place marked (visibility 1); what is not seen in the extended set has no place
    (visibility 0). Places are taken as points of the image as they are.

    A person's box is the extent of the labelled joints. The image id is the file's name without its ending, the
    annotation id the image's number. Joints that cannot be used lose their label, and are listed in `problems` with
    all that is wrong. An image that lacks its file is left out.
    """

    classes = (CLASS,)
    keypoints = KEYPOINTS

    def __init__(
        self,
        joints: str | os.PathLike,
        images: str | os.PathLike,
        *,
        first: int,
        last: int,
        third: Third = "occluded",
        name: str = "lsp",
        classes: tuple[str, ...] | None = None,
    ) -> None:
        """Reads the joints and the size of each image, which is decoded when it is asked for.

        Args:
            joints: the .mat file.
            images: the folder of the images.
            first, last: numbers of the images to take, from 1, both included. LSP trains on the first thousand.
            third: what 1 means in the third row: "occluded" in LSP, "visible" in the extended set.
            name: of the data set.
            classes: the class map to use, which can only be ("person",).

        Raises:
            DataError: the file is not such a file (it says why), a number is not in it, `classes` is another, or no
                person is usable.
        """
        if classes is not None and tuple(classes) != self.classes:
            raise DataError(f"{name} has the one class {CLASS!r}, and is to be read with {tuple(classes)}.")
        self._file, self._folder = os.fspath(joints), Folder(images)
        self.name, self.problems = name, Problems()
        stated = self._read_joints()
        if not 1 <= first <= last <= len(stated):
            raise DataError(f"{self._file!r} has the images 1 to {len(stated)}, and {first} to {last} are asked for.")
        self._infos = list(self._read_infos(first, last))
        self._points = [
            self._labelled(stated[number - 1], info, hidden_is_one=third == "occluded") for number, info in self._infos
        ]
        self._keep()

    def __len__(self) -> int:
        return len(self._infos)

    def info(self, index: int) -> ImageInfo:
        """Id, path and size of image `index`."""
        return self._infos[index][1]

    def annotations(self, index: int) -> Annotations:
        """The person of image `index`, or none where its joints cannot be used."""
        kept = slice(0, int(self._usable[index]))
        boxes, none = self._boxes[index : index + 1][kept], np.zeros(1, bool)[kept]
        return Annotations(
            boxes=boxes.copy(),
            labels=np.zeros(len(boxes), np.int32),
            areas=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
            crowd=none,
            difficult=none.copy(),
            ids=(self._infos[index][0],)[kept],
            segmentations=(None,) * len(boxes),
            keypoints=self._points[index][None][kept].copy(),
        )

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Image `index` as RGB. `DataError` as `images.decode` says."""
        image_id, path, height, width = self.info(index)
        return decode(path, image_id=image_id, size=(height, width))

    def _read_joints(self) -> Float[np.ndarray, "n 14 3"]:
        try:
            content = scipy.io.loadmat(self._file, variable_names=["joints"], appendmat=False)
        except OSError as error:
            raise DataError(f"The joints file {self._file!r} cannot be read: {error.strerror or error}.") from error
        except Exception as error:  # SciPy raises all kinds on a damaged file, and NotImplementedError on version 7.3
            raise DataError(
                f"{self._file!r} is not a .mat file that SciPy reads ({error}); save one of version 7.3 with -v7."
            ) from error
        if "joints" not in content:
            raise DataError(f"{self._file!r} has no variable 'joints', which LSP's joints.mat has.")
        joints = content["joints"]
        axes = {(3, len(JOINTS)): (2, 1, 0), (len(JOINTS), 3): (2, 0, 1)}.get(np.shape(joints)[:2])
        if axes is None or np.ndim(joints) != 3 or np.asarray(joints).dtype.kind not in "fiub":
            raise DataError(
                f"{self._file!r}: 'joints' is {' x '.join(map(str, np.shape(joints)))} of {np.asarray(joints).dtype}; "
                "LSP's is 3 x 14 x N, that of its extended set 14 x 3 x N, both of numbers."
            )
        return np.transpose(joints, axes).astype(np.float64)

    def _read_infos(self, first: int, last: int) -> Iterator[tuple[int, ImageInfo]]:
        """(number, info) of the images of these numbers that have a file."""
        files: dict[int, str] = {}
        for file in sorted(os.listdir(self._folder.root)):
            if match := _FILE.fullmatch(file):
                files.setdefault(int(match[1]), file)
        for number in range(first, last + 1):
            image_id = f"im{number:04d}"
            try:
                if number not in files:
                    raise FileFault("missing image file", f"{image_id}.jpg is not in {self._folder.root}")
                path = self._folder.find(files[number])
                yield number, ImageInfo(os.path.splitext(files[number])[0], path, *read_size(path))
            except FileFault as fault:
                self.problems.add(fault.kind, image_id, f"image {image_id}: {fault}", action="image skipped")

    def _labelled(self, stated: np.ndarray, info: ImageInfo, *, hidden_is_one: bool) -> Float[np.ndarray, "14 3"]:
        """(x, y, visibility) of each joint of an image."""
        points, limit = np.zeros((len(JOINTS), 3), np.float32), np.array([info.width, info.height])
        for joint, (at, flag) in enumerate(zip(stated[:, :2], stated[:, 2])):
            if flag == 0 and not hidden_is_one:
                continue
            kind = None
            if flag not in (0, 1):
                kind = "joint flag neither 0 nor 1"
            elif not np.isfinite(at).all():
                kind = "non-finite joint"
            elif (at < -ROUNDING).any() or (at > limit + ROUNDING).any():
                kind = "joint outside the image"
            if kind is None:
                points[joint] = *np.clip(at, 0, limit), 1 if flag == 1 and hidden_is_one else 2
                continue
            self.problems.add(
                kind,
                info.image_id,
                f"{self._file!r}, image {info.image_id}, joint {JOINTS[joint]!r}: x {at[0]:g}, y {at[1]:g}, flag "
                f"{flag:g}, in {info.width}x{info.height} pixels",
                action="taken to be not labelled",
                annotation_id=JOINTS[joint],
            )
        return points

    def _keep(self) -> None:
        """The boxes, and which of them are usable."""
        boxes = np.zeros((len(self._infos), 4))
        for box, points in zip(boxes, self._points):
            at = points[points[:, 2] > 0, :2]
            if len(at):
                box[:] = *at.min(axis=0), *at.max(axis=0)
        infos = [info for _, info in self._infos]
        self._boxes, self._usable = clean_boxes(
            boxes,
            np.array([(info.height, info.width) for info in infos], np.int64).reshape(-1, 2),
            image_ids=[info.image_id for info in infos],
            annotation_ids=[number for number, _ in self._infos],
            problems=self.problems,
            stated=lambda i: f"(extent of the joints) {boxes[i].tolist()}",
        )
        if not self._usable.any():
            faults = self.problems.summary(examples=1).replace("\n", "; ")
            raise DataError(f"Nothing in {self._file!r} with images in {self._folder.root!r} can be used: {faults}.")
