"""What every command does first and says as it goes: where it runs, compiled programs kept, errors in one sentence."""

import ctypes
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import jax

from segjax.data.source import DataError, Source


def say(text: str) -> None:
    """One line to the person who waits, on standard error so that results on standard output stay clean."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turns what a user can mend (bad data, bad options) into its one sentence and exit status 1, with no traceback."""
    try:
        yield
    except (DataError, ValueError) as error:
        if os.environ.get("SEGJAX_TRACEBACK"):
            raise
        sys.exit(f"error: {error}")


@contextmanager
def told(what: str) -> Iterator[None]:
    """Says what is being done and how long it took."""
    say(f"{what} ...")
    start = time.perf_counter()
    yield
    say(f"{what}: {time.perf_counter() - start:.1f} s")


def setup() -> None:
    """What a command of this package sets for its process.

    JAX's persistent compilation cache is turned on, in .cache/jax unless JAX_COMPILATION_CACHE_DIR says otherwise. On a
    CPU freed memory is kept.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(".cache/jax").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if jax.default_backend() == "cpu":
        keep_memory()


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
"""Of glibc's malloc.h."""


def keep_memory() -> None:
    """Has glibc keep the memory that is freed for the next allocation; elsewhere it does nothing.

    XLA allocates a step's buffers anew each step. By default glibc takes large ones from the system and gives them back
    when they are freed, so that every step touches all its pages for the first time: a third of the processor time of a
    small detector's training (docs/benchmarks.md). What has been set by MALLOC_... in the environment stays.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    # The heap that grows without end is the main arena's alone, so all threads have to share it.
    options = {M_ARENA_MAX: 1, M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**28}
    for option, value in options.items():
        mallopt(option, value)


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """The values as JSON can hold them: it has no NaN, so a score that no object decides is null."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def picture_name(source: Source, sample: int) -> str:
    """The file of the picture of image `sample`; numbered, since images of two folders may share a name."""
    return f"{sample:05d}_{pathlib.Path(source.info(sample).path).stem}.png"


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file under its final name only when it is complete."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)
