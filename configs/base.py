"""What a recipe says: frozen dataclasses, every field of which is an option of the command line."""

import dataclasses
import pathlib
from typing import Literal

import jax.numpy as jnp

from segjax.data import scenes
from segjax.data.coco import CocoSource
from segjax.data.pipeline import Batches, evaluation_batches, train_batches
from segjax.data.source import Source
from segjax.data.transforms import ColorJitter, HorizontalFlip, ScaleJitter, Transform
from segjax.data.voc import VocSource
from segjax.models.faster_rcnn import PoolSettings, faster_rcnn
from segjax.models.heads.box import BoxSettings
from segjax.models.heads.rpn import RPNSettings
from segjax.models.layers.norms import NormName
from segjax.models.layers.resnet import ResNet
from segjax.types import Model

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

    def source(self, part: Part, classes: tuple[str, ...] | None = None, *, segmentations: bool = False) -> Source:
        """One part of the data set.

        Args:
          part: which.
          classes: a class map to read it with, a checkpoint's for example; the data's own by default.
          segmentations: keep COCO's segmentations, for pictures. Training on boxes does without their memory.
        """
        name = getattr(self, part)
        if not name:
            raise ValueError(f"data.{part} is empty: name the part of {self.root} to use with --data.{part}.")
        if self.format == "voc":
            return VocSource(self.root, split=name, classes=classes)
        if self.format == "coco":
            folder = self.images[("train", "val", "test").index(part)]
            return CocoSource(self.root / name, self.root / folder, classes=classes, segmentations=segmentations)
        if name not in scenes.SPLITS:
            raise ValueError(f"data.{part} is {name!r}; scenes has the parts {', '.join(scenes.SPLITS)}.")
        folder = scenes.ensure(self.root)[name]
        return CocoSource(
            folder / "instances.json",
            folder / "images",
            name=f"scenes_{name}",
            classes=classes,
            segmentations=segmentations,
        )

    def training(self, source: Source, *, batch_size: int, seed: int) -> Batches:
        """Endless augmented batches of `source`."""
        transforms: list[Transform] = [HorizontalFlip(self.flip)] if self.flip else []
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
            **options,
        )

    def evaluation(self, source: Source, *, batch_size: int) -> Batches:
        """Each image of `source` once, without augmentation."""
        return evaluation_batches(
            source, buckets=self.buckets, batch_size=batch_size, threads=self.threads, workers=self.workers
        )


@dataclasses.dataclass(frozen=True)
class FasterRCNN:
    """Faster R-CNN with a ResNet and a feature pyramid; the defaults are torchvision's R50-FPN."""

    depth: Literal[18, 34, 50, 101, 152] = 50
    norm: NormName = "frozen_batch"
    width: int = 64
    """Channels of the backbone's stem; the later stages have 1, 2, 4 and 8 times as many (times 4 in bottlenecks)."""
    stages: tuple[int, ...] = (1, 2, 3, 4)
    """Stages of the backbone that the pyramid is built on; stage i has stride 2 ** (i + 1)."""
    channels: int = 256
    """Channels of the pyramid."""
    hidden: int = 1024
    """Width of the box head."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of convolutions and matrix products; parameters, boxes, losses and scores are float32 always."""
    rpn: RPNSettings = RPNSettings()
    box: BoxSettings = BoxSettings()
    pool: PoolSettings = PoolSettings()

    def build(self, classes: int) -> Model:
        """The model for this many classes."""
        dtype = jnp.dtype(self.dtype)
        return faster_rcnn(
            classes,
            backbone=ResNet(self.depth, self.norm, self.width, self.stages, dtype=dtype),
            channels=self.channels,
            hidden=self.hidden,
            rpn=self.rpn,
            box=self.box,
            pool=self.pool,
            dtype=dtype,
        )


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
    """Weights to start from: another run's, or a file's. What does not fit the model is left out and named."""

    run: pathlib.Path | None = None
    """The folder of a run of ours."""

    weights: pathlib.Path | None = None
    """A file with a torchvision state dict, .pth or .safetensors; read without torch."""
    name: str = "fasterrcnn_resnet50_fpn"
    """What torchvision calls the model whose weights these are; "resnet50" and its like fill the backbone alone."""
    epsilon: float = 1e-5
    """Of the norms that the weights were trained with: 0 for torchvision's released detectors, which set it so."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A whole run."""

    model: FasterRCNN = FasterRCNN()
    data: Data = Data()
    optim: Optim = Optim()
    start: Start = Start()
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
