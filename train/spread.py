"""A function of many whole numbers, shared out over processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection
from typing import Any

import cv2

_work: Callable[[int], Any]


def spread(work: Callable[[int], Any], indices: Sequence[int], *, workers: int) -> Generator[Any, None, None]:
    """`work(index)` of each index, in their order, computed by `workers` processes.

    Whoever may stop before the end closes it (`contextlib.closing`). Else it lives as long as the traceback of what
    stopped them, and Python does all the work that is left before it exits.

    Args:
        work: picklable; sent to each process once.
        workers: processes; with one, or one index, the work is done in this process.

    Raises:
        ValueError: `workers` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers={workers} must be at least 1")
    workers = min(workers, len(indices))
    if workers <= 1:
        yield from map(work, indices)
        return
    # Not forked: the parent may have started JAX's threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(work,))
    try:
        yield from pool.map(_call, indices)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(work: Callable[[int], Any]) -> None:
    global _work
    _work = work
    cv2.setNumThreads(1)
    # Ctrl-C is the parent's to answer; and where it is killed, its processes go with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _call(index: int) -> Any:
    return _work(index)
