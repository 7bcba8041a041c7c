"""What every command does first and says as it goes: where it runs, compiled programs kept, errors in one sentence."""

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


def say_problems(source: Source) -> None:
    """Says what is wrong with a data set, as far as it has been met; nothing where all is well."""
    if len(source.problems):
        say(source.problems.summary())


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
    """Turns on JAX's persistent compilation cache, in .cache/jax unless JAX_COMPILATION_CACHE_DIR says otherwise."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(".cache/jax").absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


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
