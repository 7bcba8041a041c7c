"""What a case of the comparison is, and what every case needs of the two libraries."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from benchmarks.timing import Run


class Setting(NamedTuple):
    """Where and in which precision a comparison runs."""

    device: str
    """As torch calls it: "cpu" or "cuda"."""
    precision: str
    """"float32", "tf32" or "bfloat16"; the latter is a compute dtype here and autocast in torch."""

    @property
    def autocast(self) -> contextlib.AbstractContextManager:
        """torch's mixed precision, where it is asked for."""
        if self.precision == "bfloat16":
            return torch.autocast(self.device, torch.bfloat16)
        return contextlib.nullcontext()

    @property
    def tolerance(self) -> float:
        """How far results may lie apart, relative to their size."""
        return {"float32": 1e-3, "tf32": 2e-2, "bfloat16": 1e-1}[self.precision]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The two contenders for one piece of work, ready to be timed."""

    ours: Run
    theirs: Run
    differences: Mapping[str, float]
    """How far the results lie apart; checked before timing."""
    facts: Mapping[str, Any]
    """What the work amounts to: boxes kept, detections."""
    compile_seconds: float
    temporary_mib: float
    """What our program holds besides its arguments and results, by XLA's own account."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A named piece of work. `build` takes (setting, quick); `quick` asks for a size that is done in a second."""

    name: str
    build: Callable[[Setting, bool], Comparison]
    neural: bool = False
    """Whether the precision matters: matrix products are in it."""


class Compiled:
    """A jitted function, compiled for its arguments with the clock running. Calling it waits for the result."""

    def __init__(self, function: Any, *args: Any) -> None:
        start = time.perf_counter()
        self.program = function.lower(*args).compile()
        self.seconds = time.perf_counter() - start
        memory = self.program.memory_analysis()
        self.temporary_mib = round(memory.temp_size_in_bytes / 2**20, 1) if memory else float("nan")

    def __call__(self, *args: Any) -> Any:
        return jax.block_until_ready(self.program(*args))


def compared(compiled: Compiled, args: Any, theirs: Run, differences: dict, facts: dict) -> Comparison:
    """The comparison of a compiled function with `theirs`."""
    return Comparison(lambda: compiled(*args), theirs, differences, facts, compiled.seconds, compiled.temporary_mib)


def waited(setting: Setting, run: Run) -> Run:
    """`run`, over only when the device is done."""
    if setting.device == "cpu":
        return run

    def run_and_wait() -> Any:
        result = run()
        torch.cuda.synchronize()
        return result

    return run_and_wait


def checked(name: str, ours: Any, theirs: Any, tolerance: float) -> float:
    """The largest difference relative to the largest value of `theirs`. `ValueError` where it exceeds `tolerance`."""
    ours, theirs = as_numpy(ours), as_numpy(theirs)
    if ours.shape != theirs.shape:
        raise ValueError(f"{name}: segjax gives shape {ours.shape}, torchvision {theirs.shape}; nothing was timed.")
    difference = float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-6)) if ours.size else 0.0
    if not difference <= tolerance:
        raise ValueError(
            f"{name}: results differ by {difference:.2g} of the largest value, tolerance {tolerance:.2g}; "
            "nothing was timed."
        )
    return difference


def as_numpy(array: Any) -> np.ndarray:
    """A torch or JAX array, float32 or integer, on the host."""
    if isinstance(array, torch.Tensor):
        array = array.detach().float() if array.is_floating_point() else array.detach()
        return array.cpu().numpy()
    return np.asarray(array, np.float32) if jax.dtypes.issubdtype(array.dtype, np.floating) else np.asarray(array)


@contextlib.contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Lets both libraries round the factors of float32 matrix products to TF32, or forbids it to both."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = enabled
    try:
        with jax.default_matmul_precision("tensorfloat32" if enabled else "float32"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
