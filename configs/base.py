"""What a recipe says: frozen dataclasses, every field of which is an option of the command line."""

import dataclasses
import pathlib
from typing import Literal

from configs.data import Data as Data
from configs.data import Part as Part
from configs.detectors import FasterRCNN
from configs.system import System


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
    """Equal parts into which a batch is cut, their gradients averaged: about the same step in less memory. Batch norm,
    and means over what is labelled, are taken over each part."""
    ema_decay: float | None = None
    """Decay of the moving average of the parameters; evaluation and the final model then use the average."""
    freeze: tuple[str, ...] = ()
    """Parameters not trained, by the start of their path: "backbone/stem", "backbone/layer1"."""
    factors: tuple[tuple[str, float], ...] = ()
    """(start of a path, factor) of the parameters whose rate is not `lr` itself but a multiple of it, such as
    ("backbone", 0.1). Of several that fit a parameter the longest counts."""


@dataclasses.dataclass(frozen=True)
class Start:
    """Weights to start from: other runs', or a file's. What does not fit the model is left out and named."""

    runs: tuple[pathlib.Path, ...] = ()
    """Folders of runs of ours, of any model. What several of them have is taken from the last."""
    arrays: tuple[pathlib.Path, ...] = ()
    """NumPy archives of variables by path, "params/box/svm/kernel", that go before what the runs have: what was not
    trained by gradient."""

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
