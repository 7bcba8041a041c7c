"""What a recipe says: frozen dataclasses, every field of which is an option of the command line."""

import dataclasses
import pathlib
from typing import Any, Literal

from configs.models import FasterRCNN
from configs.system import System
from segjax.data import scenes
from segjax.data.agnostic import AgnosticSource
from segjax.data.coco import CocoSource
from segjax.data.pipeline import Batches, evaluation_batches, train_batches
from segjax.data.proposals import ProposalFile
from segjax.data.source import Source
from segjax.data.transforms import ColorJitter, HorizontalFlip, ScaleJitter, Transform
from segjax.data.voc import VocSource

Part = Literal["train", "val", "test"]


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images are, and how they become batches."""

    format: Literal["scenes", "coco", "voc"] = "scenes"
    """scenes: generated into `root` when absent; coco: JSON files and image folders; voc: XML files and split lists."""
    root: pathlib.Path = pathlib.Path("data/scenes")
    train: str = "train"
    """The part to train on. voc: a list in ImageSets/Main. coco: the annotation file, relative to `root`."""
    val: str = "val"
    """The part to evaluate on while training."""
    test: str = ""
    """The part for `train.evaluate --part test`; none by default."""
    images: tuple[str, str, str] = ("", "", "")
    """coco: the image folders of train, val and test, relative to `root`."""
    buckets: tuple[tuple[int, int], ...] = ((128, 160), (160, 128))
    """(height, width) of the batches' images in pixels, multiples of 32. One compilation each."""
    agnostic: bool = False
    """Take all classes for one, "object": what a region proposal network is trained on and judged by."""
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
          fields: what is to be read of objects besides boxes and labels: "masks", "keypoints", names of attributes.
          segmentations: keep COCO's segmentations, for pictures. Training on boxes does without their memory.
        """
        source = self._source(part, None if self.agnostic else classes, fields, segmentations or "masks" in fields)
        return AgnosticSource(source) if self.agnostic else source

    def _source(
        self, part: Part, classes: tuple[str, ...] | None, fields: tuple[str, ...], segmentations: bool
    ) -> Source:
        name = getattr(self, part)
        if not name:
            raise ValueError(f"data.{part} is empty: name the part of {self.root} to use with --data.{part}.")
        if self.format == "voc":
            if fields:
                raise ValueError(f"Pascal VOC's XML has no {fields[0]!r}, which this model learns from; use COCO JSON.")
            return VocSource(self.root, split=name, classes=classes)
        options = {
            "classes": classes,
            "segmentations": segmentations,
            "keypoints": "keypoints" in fields,
            "attributes": tuple(field for field in fields if field not in ("masks", "keypoints")),
        }
        if self.format == "coco":
            folder = self.images[("train", "val", "test").index(part)]
            return CocoSource(self.root / name, self.root / folder, **options)
        if name not in scenes.SPLITS:
            raise ValueError(f"data.{part} is {name!r}; scenes has the parts {', '.join(scenes.SPLITS)}.")
        folder = scenes.ensure(self.root)[name]
        # The joints are in a file of their own, of persons alone, as COCO's are.
        file = "keypoints.json" if "keypoints" in fields else "instances.json"
        return CocoSource(folder / file, folder / "images", name=f"scenes_{name}", **options)

    def training(self, source: Source, *, batch_size: int, seed: int, fields: tuple[str, ...] = ()) -> Batches:
        """Endless augmented batches of `source`, the part to train on, with these fields of its objects."""
        joints = source.keypoints.flip if source.keypoints else None
        transforms: list[Transform] = [HorizontalFlip(self.flip, flip=joints)] if self.flip else []
        if self.color:
            transforms.append(ColorJitter(self.color, self.color, self.color))
        options = {} if self.scales == (1.0, 1.0) else {"fit": ScaleJitter(self.scales)}
        return train_batches(
            source,
            buckets=self.buckets,
            batch_size=batch_size,
            capacity=self.capacity,
            seed=seed,
            transforms=transforms,
            threads=self.threads,
            workers=self.workers,
            fields=fields,
            **self._proposals(source, "train"),
            **options,
        )

    def evaluation(
        self, source: Source, *, batch_size: int, part: Part = "val", proposals: ProposalFile | None = None
    ) -> Batches:
        """Each image of `source`, which is `part`, once, without augmentation. `proposals` replace the part's own."""
        given = {"proposals": proposals, "proposal_count": self.proposal_count} if proposals else None
        return evaluation_batches(
            source,
            buckets=self.buckets,
            batch_size=batch_size,
            threads=self.threads,
            workers=self.workers,
            **(given or self._proposals(source, part)),
        )

    def _proposals(self, source: Source, part: Part) -> dict[str, Any]:
        name = self.proposals[("train", "val", "test").index(part)]
        if not name:
            return {}
        return {"proposals": ProposalFile(self.root / name, source), "proposal_count": self.proposal_count}


@dataclasses.dataclass(frozen=True)
class Optim:
    """How parameters change."""

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.02
    momentum: float = 0.9
    """SGD's momentum, AdamW's first decay rate."""
    weight_decay: float = 1e-4
    """Never on norms and biases."""
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    """Where a step schedule divides the rate by ten, as shares of the run."""
    warmup_steps: int = 500
    """Steps over which the rate rises linearly from a thousandth of `lr`."""
    clip_norm: float | None = None
    """Largest global norm of the gradient."""
    accumulate: int = 1
    """Equal parts into which a batch is cut, their gradients averaged: the same step in less memory."""
    ema_decay: float | None = None
    """Decay of the moving average of the parameters; evaluation and the final model then use the average."""
    freeze: tuple[str, ...] = ()
    """Parameters not trained, by the start of their path: "backbone/stem", "backbone/layer1"."""


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights to start from: other runs', or a file's. What does not fit the model is left out and named."""

    runs: tuple[pathlib.Path, ...] = ()
    """Folders of runs of ours. What several of them have is taken from the last."""

    weights: pathlib.Path | None = None
    """A file with a torchvision state dict, .pth or .safetensors; read without torch."""
    name: str = "fasterrcnn_resnet50_fpn"
    """What torchvision calls the model whose weights these are; "resnet50" and its like fill the backbone alone."""
    norm: Literal["frozen_batch", "batch"] | None = None
    """Kind of norms of the backbone called `name`, as in `segjax.pretrained.from_torchvision`; None for its default."""
    epsilon: float | None = None
    """Of the norms that the weights were trained with: 0 for torchvision's released detectors, which set it so."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A whole run."""

    model: System = FasterRCNN()
    data: Data = Data()
    optim: Optim = Optim()
    start: Start = Start()
    alternating: bool = False
    """Train in four steps, proposals and heads in turn (Ren et al. 2016, section 3.2), of `steps` each."""
    steps: int = 1000
    batch_size: int = 8
    """Images a step, over all devices."""
    eval_batch_size: int = 8
    devices: int = 0
    """Devices of this machine to share a batch out over; 0 takes all."""
    seed: int = 0
    loss_weights: tuple[tuple[str, float], ...] = ()
    """(name, factor) of the loss terms that do not count once."""
    log_every: int = 20
    eval_every: int = 0
    """Steps between evaluations; 0 evaluates at the end alone."""
    checkpoint_every: int = 200
    keep: int = 2
    """Checkpoints kept, the newest."""
    run: pathlib.Path | None = None
    """The run's folder, runs/NAME by default. A run found there is continued."""
