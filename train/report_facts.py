"""How long and how fast a run trained, and on what: the facts at the top of its report."""

import resource
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax


def training_facts(rows: Sequence[Mapping[str, Any]], *, batch_size: int | None) -> dict[str, Any]:
    """Steps, images a second (the median over the log) and training time of a run, from its metrics.

    The time is that of the steps themselves, without compiling and evaluating; it is left out where `batch_size` is
    not known.

    Args:
        rows: Ascending by "step"; "images_per_second" is of the steps since the row before.
        batch_size: Images a step.
    """
    timed = [(row["step"], row["images_per_second"]) for row in rows if row.get("images_per_second")]
    if not timed:
        return {}
    facts: dict[str, Any] = {"Steps": timed[-1][0]}
    if batch_size:
        starts = [0, *(step for step, _ in timed)]
        seconds = sum((step - start) * batch_size / speed for start, (step, speed) in zip(starts, timed))
        facts["Training time"] = duration(seconds)
    speed = statistics.median(speed for _, speed in timed)
    return facts | {"Images a second": f"{speed:.1f}"}


def machine_facts() -> dict[str, str]:
    """Devices, JAX version and peak memory of this process; on a device that counts its own memory, also that."""
    devices = jax.local_devices()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # in kilobytes on Linux
    facts = {"Devices": f"{len(devices)} x {devices[0].device_kind}", "JAX": jax.__version__}
    facts["Peak host memory"] = f"{peak / 2**30:.1f} GiB"
    stats = devices[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        facts["Peak device memory"] = f"{stats['peak_bytes_in_use'] / 2**30:.1f} GiB"
    return facts


def duration(seconds: float) -> str:
    """Seconds in words: "48 s", "5 min 12 s", "3 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
