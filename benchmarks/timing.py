"""Timing two contenders side by side, and what a row of timings amounts to."""

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Run = Callable[[], Any]
"""Does the work once and returns its result when it is there: nothing is still under way on a device."""


class Summary(NamedTuple):
    """A row of measurements: the median and the quartiles."""

    median: float
    lower: float
    upper: float


class Timings(NamedTuple):
    """Seconds a call of each contender, one entry a repeat; entries of the same index were measured back to back."""

    ours: list[float]
    theirs: list[float]


def summarize(values: Sequence[float]) -> Summary:
    """Median and quartiles. `ValueError` without values."""
    if not len(values):
        raise ValueError("there is nothing to summarise: values is empty.")
    lower, median, upper = np.quantile(np.asarray(values, np.float64), [0.25, 0.5, 0.75])
    return Summary(float(median), float(lower), float(upper))


def ratios(timings: Timings) -> list[float]:
    """Their time over ours for each repeat: above 1, we are faster. Neighbours in time share the machine's load."""
    return [theirs / ours for ours, theirs in zip(timings.ours, timings.theirs, strict=True)]


def calls_per_sample(seconds: float, *, at_least: float) -> int:
    """How many calls of `seconds` each make a sample that lasts `at_least` seconds: short calls are timed in groups."""
    return max(1, int(np.ceil(at_least / max(seconds, 1e-9))))


def interleave(ours: Run, theirs: Run, *, repeats: int, at_least: float = 0.05, warm_up: int = 2) -> Timings:
    """Times both in turn: A B, B A, A B, ..., so that neither always runs first and load falls on both alike.

    Args:
      ours, theirs: the contenders, compiled already.
      repeats: samples of each.
      at_least: seconds a sample should last.
      warm_up: untimed calls of each before the first sample.
    """
    for _ in range(warm_up):
        estimates = [seconds_a_call(run, 1) for run in (ours, theirs)]
    counts = [calls_per_sample(seconds, at_least=at_least) for seconds in estimates]
    found: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats):
        for which in (0, 1) if repeat % 2 == 0 else (1, 0):
            found[which].append(seconds_a_call((ours, theirs)[which], counts[which]))
    return Timings(*found)


def seconds_a_call(run: Run, calls: int) -> float:
    """Seconds a call, by the wall clock, with Python's collector out of the way."""
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls
    finally:
        gc.enable()
