"""What a run says of itself while it goes: progress bar, metrics.jsonl, TensorBoard; and the stop at a lost loss."""

import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from segjax.data.source import Source
from train.report import read_metrics
from train.runtime import finite, write_text
from train.times import Times


class Diverged(ValueError):
    """A loss or the gradient was not finite."""


class Metrics:
    """Collects the metrics of steps without waiting for the device, and writes their means when they are settled."""

    def __init__(
        self,
        run: pathlib.Path,
        *,
        start: int,
        steps: int,
        batch_size: int,
        rate: Callable[[int], Any],
    ) -> None:
        """Continues the records of `run` after step `start`; rows of later steps, of a run cut short, are dropped.

        Args:
          rate: learning rate by the number of steps taken before.
        """
        self._path = run / "metrics.jsonl"
        rows = (row for row in read_metrics(self._path) if row["step"] <= start)
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=start + 1 if start else None)
        self._bar = tqdm(total=steps, initial=start, unit="step", desc="training", dynamic_ncols=True)
        self._batch_size, self._rate = batch_size, rate
        self._pending: list[tuple[int, dict[str, jax.Array], jax.Array]] = []
        self._clock = Times.now()

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._board.close()
        self._file.close()

    def exclude(self, spent: Times) -> None:
        """Takes time that was no training (compiling, evaluating) out of the images a second."""
        self._clock = self._clock.plus(spent)

    def stepped(self, step: int, values: dict[str, jax.Array], samples: jax.Array) -> None:
        """Takes note of a step; nothing is read from the device yet."""
        self._pending.append((step, values, samples))
        self._bar.update()

    def settle(self, source: Source) -> None:
        """Reads the steps since the last call, and writes their means as one row.

        Raises:
          Diverged: a value was not finite. It names the first such step, its images by id, and the terms.
        """
        if not self._pending:
            return
        pending, self._pending = jax.device_get(self._pending), []
        for step, values, samples in pending:
            if bad := [name for name, value in values.items() if not math.isfinite(value)]:
                raise Diverged(_diagnosis(step, values, bad, samples, source))
        spent, self._clock = self._clock.until(now := Times.now()), now
        last = pending[-1][0]
        row = {name: float(np.mean([values[name] for _, values, _ in pending])) for name in pending[-1][1]}
        row |= {"lr": float(self._rate(last - 1)), "images_per_second": len(pending) * self._batch_size / spent.seconds}
        row["processor_seconds"] = spent.processor_seconds  # of these steps: beside the clock, what was waited for
        self._bar.set_postfix_str(f"loss {row['loss']:.3f}, {row['images_per_second']:.1f} images/s")
        self._write(last, row)

    def evaluated(self, step: int, results: Mapping[str, float]) -> None:
        """Writes the scores of an evaluation."""
        self._write(step, {f"eval/{name}": float(value) for name, value in results.items()})

    def _write(self, step: int, row: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **finite(row)}) + "\n")
        self._file.flush()
        for name, value in row.items():
            if math.isfinite(value):
                self._board.add_scalar(name, value, step)


def _diagnosis(step: int, values: Mapping[str, Any], bad: list[str], samples: np.ndarray, source: Source) -> str:
    ids = ", ".join(str(source.info(int(sample)).image_id) for sample in samples if sample >= 0)
    terms = ", ".join(f"{name} = {float(value):.4g}" for name, value in values.items())
    return (
        f"step {step}: {', '.join(bad)} not finite ({terms}); images of the batch: {ids}. The last checkpoint is "
        "from before it: look at these images, lower --optim.lr, or set --optim.clip-norm."
    )
