"""What a recipe says of its data: where it is, and how it becomes batches."""

import dataclasses
import pathlib
from typing import Any, Literal

from configs.augment import Augment
from configs.data_options import check_options, check_sides
from segjax.data import label_maps, scenes
from segjax.data.agnostic import AgnosticSource
from segjax.data.coco import CocoSource
from segjax.data.coco_label_maps import CocoLabelMaps
from segjax.data.crops import CropSource
from segjax.data.lsp import LspSource, Third
from segjax.data.main_object import MainObjectSource
from segjax.data.mask_codes import Code, Colour, IdCode, colour_code, read_colours
from segjax.data.pipeline import Batches, evaluation_batches, train_batches
from segjax.data.proposals import ProposalFile, open_proposals
from segjax.data.source import LabelMapSource, Source
from segjax.data.tfds_label_maps import TfdsLabelMaps
from segjax.data.transforms import ColorJitter, Fit, HorizontalFlip, ScaleJitter, Transform, fit_inside, stretch
from segjax.data.voc import VocSource
from segjax.data.yolo_labels import YoloSource

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Masks:
    """What the mask files of models of semantic segmentation are called, and what is in them."""

    folders: tuple[str, str, str] = ("", "", "")
    """folders: those of the masks of train, val and test, relative to `root`. voc: SegmentationClass where empty."""
    suffix: str = ".png"
    """folders: the end of a mask's name, in place of the ending of its image's: "_L.png"."""
    ids: tuple[int, ...] = ()
    """The number in the files that stands for each of `classes`; 0, 1, 2, ... where empty. A class of several numbers
    is named for each of them: classes "road", "car", "car" with the ids 0, 1, 2 make cars of both 1 and 2."""
    ignore: tuple[int, ...] = (255,)
    """Numbers in the files of pixels that do not count."""
    colours: str = ""
    """lists, folders, tfds: where masks are coloured, a file with a line "R G B name" for each colour, relative to
    `root`. Colours whose name is no class do not count. Without `classes`, its names are the classes."""


@dataclasses.dataclass(frozen=True)
class Tfds:
    """What to read of tensorflow-datasets (`segjax.data.tfds_label_maps`)."""

    name: str = ""
    """Of the data set: "oxford_iiit_pet", "set/config:1.0.0"."""
    image: str = "image"
    """The feature that is the image."""
    label: str = "segmentation_mask"
    """The feature that is the mask."""


@dataclasses.dataclass(frozen=True)
class Lsp:
    """Where the parts of Leeds Sports Pose are, and what its joints' third number says."""

    joints: str = "joints.mat"
    """The file of the joints, relative to `root`."""
    images: str = "images"
    """The folder of the images, relative to `root`."""
    third: Third = "occluded"
    """What 1 means: occluded in LSP, visible in its extended training set."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images are, and how they become batches."""

    format: Literal["scenes", "coco", "voc", "yolo", "lsp", "lists", "folders", "tfds"] = "scenes"
    """scenes: generated into `root` when absent; coco: JSON files and image folders; voc: XML files and split lists, or
    its SegmentationClass; yolo: folders of images and of text labels, objects alone; lsp: Leeds Sports Pose. With label
    maps alone: lists: text files of image and mask paths; folders: of either; tfds: tensorflow-datasets."""
    root: pathlib.Path = pathlib.Path("data/scenes")
    """The folder of all of it; tfds: its data_dir."""
    train: str = "train"
    """The part to train on. voc: a list in ImageSets/Main, or Segmentation for label maps. coco: the annotation file,
    lists: the list, folders, yolo: the folder of the images, each relative to `root`. tfds: a split, "train[:90%]".
    lsp: the first and the last image's number, "1-1000"."""
    val: str = "val"
    """The part to evaluate on while training."""
    test: str = ""
    """The part for `train.evaluate --part test`; none by default."""
    images: tuple[str, str, str] = ("", "", "")
    """coco: the image folders of train, val and test, relative to `root`."""
    labels: tuple[str, str, str] = ("", "", "")
    """yolo: the folders of the label files of train, val and test, relative to `root`; where empty, that of the images
    with its last "images" made "labels"."""
    names: str = ""
    """yolo: a file with the name of each class on a line, relative to `root`; where empty, `classes` are the names."""
    classes: tuple[str, ...] = ()
    """The classes to read, in this order, the first being "background" for label maps of coco; all by default. lists,
    folders, tfds: what the numbers in the masks mean; tfds: by default what the data set says."""
    masks: Masks = Masks()
    tfds: Tfds = Tfds()
    lsp: Lsp = Lsp()
    crops: float = 0.0
    """Make an image of each object with labelled joints: its box, made wider and higher by this factor from 1 on, cut
    out. 0 takes whole images. For models that find one pose an image."""
    buckets: tuple[tuple[int, int], ...] = ((128, 160), (160, 128))
    """(height, width) of the batches' images in pixels; for most detectors multiples of 32. One compilation each."""
    evaluation_buckets: tuple[tuple[int, int], ...] = ()
    """The same for evaluation, where training is on smaller crops; `buckets` where empty."""
    agnostic: bool = False
    """Take all classes for one, "object": what a region proposal network is trained on and judged by."""
    main_object: bool = False
    """Keep of each image its largest object alone, and no image without one: for classification with localization."""
    proposals: tuple[str, str, str] = ("", "", "")
    """Files of proposals (`segjax.data.proposals`) of train, val and test, relative to `root`, for models that make
    none themselves."""
    proposal_count: int = 2000
    """Proposals an image can have; of more, the first are kept and the rest is counted."""
    capacity: int = 16
    """Objects an image can have in training; of more, the largest are kept and the rest is counted and reported."""
    flip: float = 0.5
    """Probability of mirroring an image."""
    scales: tuple[float, float] = (1.0, 1.0)
    """Range of the random scale, relative to the size that fits the bucket; above 1 a random window is cut out."""
    color: float = 0.0
    """Strength of the random change of brightness, contrast and saturation, 0 to 1."""
    stretch: bool = False
    """Resize images to all of their bucket, whatever their aspect ratio, in training and in evaluation, as SSD and YOLO
    do; by default they keep it and are padded."""
    augment: Augment = Augment()
    """Further augmentation, none by default."""
    threads: int = 1
    """Batches that are made at the same time."""
    workers: int = 0
    """Processes that make them; 0 makes them in threads."""

    def source(
        self,
        part: Part,
        classes: tuple[str, ...] | None = None,
        *,
        fields: tuple[str, ...] = (),
        segmentations: bool = False,
    ) -> Source:
        """One part of the data set.

        Args:
          part: which.
          classes: a class map to read it with, a checkpoint's for example; the data's own by default.
          fields: what is to be read besides boxes and labels: "masks", "keypoints", names of attributes; or
            "label_map", of the image, in place of objects.
          segmentations: keep COCO's segmentations, for pictures. Training on boxes does without their memory.
        """
        name = getattr(self, part)
        if not name:
            raise ValueError(f"data.{part} is empty: name the part of {self.root} to use with --data.{part}.")
        check_options(self, fields)
        if "label_map" in fields:
            return self._label_maps(part, name, classes)
        classes = classes or self.classes or None
        source = self._objects(part, name, None if self.agnostic else classes, fields, segmentations)
        source = AgnosticSource(source) if self.agnostic else source
        source = MainObjectSource(source) if self.main_object else source
        return CropSource(source, factor=self.crops) if self.crops else source

    def _objects(
        self, part: Part, name: str, classes: tuple[str, ...] | None, fields: tuple[str, ...], segmentations: bool
    ) -> Source:
        if self.format == "voc":
            if fields:
                raise ValueError(f"Pascal VOC's XML has no {fields[0]!r}, which this model learns from; use COCO JSON.")
            return VocSource(self.root, split=name, classes=classes)
        if self.format == "yolo":
            return self._yolo(part, name, classes, fields)
        if self.format == "lsp":
            return self._lsp(part, name, classes, fields)
        options = {
            "classes": classes,
            "segmentations": segmentations or "masks" in fields,
            "keypoints": "keypoints" in fields,
            "attributes": tuple(field for field in fields if field not in ("masks", "keypoints")),
        }
        if self.format == "coco":
            return CocoSource(self.root / name, self.root / _of(self.images, part), **options)
        folder = self._scenes(part, name)
        # The joints are in a file of their own, of persons alone, as COCO's are.
        file = "keypoints.json" if "keypoints" in fields else "instances.json"
        return CocoSource(folder / file, folder / "images", name=f"scenes_{name}", **options)

    def _yolo(self, part: Part, name: str, classes: tuple[str, ...] | None, fields: tuple[str, ...]) -> Source:
        if fields:
            raise ValueError(f"YOLO's text labels have no {fields[0]!r}, which this model learns from; use COCO JSON.")
        if not self.names and not self.classes:
            raise ValueError("data.names and data.classes are both empty: name the class of each number in the labels.")
        before, images, after = name.rpartition("images")
        labels = _of(self.labels, part) or (f"{before}labels{after}" if images else name)
        names = self.root / self.names if self.names else self.classes
        # A set is called by its part: folders of images are often all called "images".
        return YoloSource(self.root / name, self.root / labels, names=names, name=f"yolo_{part}", classes=classes)

    def _lsp(self, part: Part, name: str, classes: tuple[str, ...] | None, fields: tuple[str, ...]) -> Source:
        if lacking := [field for field in fields if field != "keypoints"]:
            raise ValueError(f"Leeds Sports Pose has joints and no {lacking[0]!r}, which this model learns from.")
        first, dash, last = name.partition("-")
        if not (dash and first.isdecimal() and last.isdecimal()):
            raise ValueError(f'data.{part} is {name!r}; for lsp it is the first and last image\'s number, "1-1000".')
        return LspSource(
            self.root / self.lsp.joints,
            self.root / self.lsp.images,
            first=int(first),
            last=int(last),
            third=self.lsp.third,
            name=f"lsp_{part}",
            classes=classes,
        )

    def _label_maps(self, part: Part, name: str, classes: tuple[str, ...] | None) -> LabelMapSource:
        if self.format == "coco":
            options = {"classes": classes or self.classes or None}
            return CocoLabelMaps(self.root / name, self.root / _of(self.images, part), **options)
        source = self._mask_files(part, name)
        if classes is not None and tuple(classes) != source.classes:
            raise ValueError(
                f"{source.name} has the classes {source.classes}, and is to be read with {tuple(classes)}: masks are "
                "numbers, which mean what the data set says they do. Set data.classes to the names that belong to them."
            )
        return source

    def _mask_files(self, part: Part, name: str) -> LabelMapSource:
        if self.format == "scenes":
            return label_maps.from_scenes(self._scenes(part, name), name=f"scenes_{name}")
        folder = _of(self.masks.folders, part)
        if self.format == "voc":
            return label_maps.from_voc(self.root, split=name, masks=folder or "SegmentationClass")
        if self.format == "tfds":
            return self._tfds(name)
        classes, code, colours = self._code()
        options = {"classes": classes, "code": code, "colours": colours}
        if self.format == "lists":
            return label_maps.from_list(self.root / name, root=self.root, **options)
        if not folder:
            raise ValueError(f"data.masks.folders names no folder for {part}: give the one with the masks of {name!r}.")
        return label_maps.from_folders(self.root / name, self.root / folder, suffix=self.masks.suffix, **options)

    def _tfds(self, split: str) -> LabelMapSource:
        if not self.tfds.name:
            raise ValueError("data.tfds.name is empty: give the name of the data set in tensorflow-datasets.")
        given = bool(self.classes or self.masks != Masks())
        classes, code, colours = self._code() if given else (None, None, None)
        return TfdsLabelMaps(
            self.tfds.name,
            split=split,
            data_dir=self.root,
            image_key=self.tfds.image,
            label_key=self.tfds.label,
            classes=classes,
            code=code,
            colours=colours,
        )

    def _code(self) -> tuple[tuple[str, ...], Code, tuple[Colour, ...] | None]:
        """The classes, what says them in the masks, and their colours where it is colours."""
        if self.masks.colours:
            table = read_colours(self.root / self.masks.colours)
            classes = self.classes or tuple(dict.fromkeys(name for _, name in table))
            first = {name: colour for colour, name in reversed(table)}
            return classes, colour_code(table, classes), tuple(map(first.get, classes))
        if not self.classes:
            raise ValueError("data.classes is empty: name the class of each number in the masks, with --data.classes.")
        ids = self.masks.ids or tuple(range(len(self.classes)))
        if len(ids) != len(self.classes):
            raise ValueError(f"data.masks.ids has {len(ids)} numbers for the {len(self.classes)} of data.classes.")
        classes = tuple(dict.fromkeys(self.classes))
        return classes, IdCode(ids, self.masks.ignore, tuple(map(classes.index, self.classes))), None

    def _scenes(self, part: Part, name: str) -> pathlib.Path:
        if name not in scenes.SPLITS:
            raise ValueError(f"data.{part} is {name!r}; scenes has the parts {', '.join(scenes.SPLITS)}.")
        return scenes.ensure(self.root)[name]

    def training(
        self, source: Source, *, batch_size: int, seed: int, fields: tuple[str, ...] = (), multiple: int = 1
    ) -> Batches:
        """Endless augmented batches of `source`, the part to train on, with these fields.

        `ValueError` for augmentation that makes no sense for them, and for buckets whose sides are no multiples of
        `multiple`.
        """
        check_sides(self, multiple)
        self.augment.check(fields, proposals=any(self.proposals))
        joints = source.keypoints.flip if source.keypoints else None
        transforms: list[Transform] = [HorizontalFlip(self.flip, flip=joints)] if self.flip else []
        if self.color:
            transforms.append(ColorJitter(self.color, self.color, self.color))
        fit = self._fit() if self.scales == (1.0, 1.0) else ScaleJitter(self.scales, stretch=self.stretch)
        return train_batches(
            source,
            buckets=self.buckets,
            batch_size=batch_size,
            capacity=self.capacity,
            seed=seed,
            before=self.augment.before(),
            fit=fit,
            transforms=[*transforms, *self.augment.after()],
            mixtures=self.augment.mixtures(),
            threads=self.threads,
            workers=self.workers,
            fields=fields,
            **self._proposals(source, "train"),
        )

    def evaluation(
        self,
        source: Source,
        *,
        batch_size: int,
        part: Part = "val",
        proposals: ProposalFile | None = None,
    ) -> Batches:
        """Each image of `source`, which is `part`, once, without augmentation.

        Args:
          proposals: in place of the part's own.
        """
        given = {"proposals": proposals, "proposal_count": self.proposal_count} if proposals else None
        return evaluation_batches(
            source,
            buckets=self.evaluation_buckets or self.buckets,
            batch_size=batch_size,
            fit=self._fit(),
            threads=self.threads,
            workers=self.workers,
            **(given or self._proposals(source, part)),
        )

    def _fit(self) -> Fit:
        return stretch if self.stretch else fit_inside

    def _proposals(self, source: Source, part: Part) -> dict[str, Any]:
        name = _of(self.proposals, part)
        if not name:
            return {}
        return {"proposals": open_proposals(self.root / name, source), "proposal_count": self.proposal_count}


def _of(values: tuple[str, str, str], part: Part) -> str:
    return values[PARTS.index(part)]
