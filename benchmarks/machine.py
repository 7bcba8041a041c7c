"""What a measurement ran on, in terms that mean something elsewhere: no host name, no user, no paths."""

import ctypes
import gc
import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "torchvision")
ROOT = pathlib.Path(__file__).resolve().parents[1]


def describe_machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, system, versions and commit."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": git_commit(),
    }


def cpu_model(cpuinfo: str | None = None) -> str:
    """The processor's name, from the text of /proc/cpuinfo where there is one."""
    if cpuinfo is None:
        path = pathlib.Path("/proc/cpuinfo")
        cpuinfo = path.read_text() if path.exists() else ""
    names = [line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def usable_cores() -> int:
    """Cores that this process may run on: both libraries start as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float:
    """Processes that ran or wanted to in the last minute, on average; this one included."""
    return round(os.getloadavg()[0], 2)


class CoresOfOthers:
    """Counts the processor time that other processes take, from when it is made: the load average lags by minutes.

    From /proc/stat, as Linux has it. Time that the hypervisor gives to other machines counts as others' too.
    """

    def __init__(self) -> None:
        self._start = self._read()

    def average(self) -> float | None:
        """How many cores the others kept busy on average, None where there is no /proc/stat."""
        if self._start is None:
            return None
        seconds, busy, own = (now - then for now, then in zip(self._read(), self._start))
        return round(max(busy - own, 0.0) / max(seconds, 1e-9), 2)

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        """(time, busy seconds of all cores, processor seconds of this process)."""
        stat = pathlib.Path("/proc/stat")
        if not stat.exists():
            return None
        own = os.times()
        return time.monotonic(), busy_seconds(stat.read_text()), own.user + own.system


def peak_mib(run: Callable[[], Any]) -> float | None:
    """The most memory that the process held during `run()` beyond what it held before, in MiB.

    By the kernel's account of resident pages, so for any library alike; what an allocator keeps for later is given back
    first. None where there is no Linux that counts so.
    """
    try:
        trim_memory()
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = resident_mib("VmRSS")
        run()
        return round(resident_mib("VmHWM") - before, 1)
    except OSError:
        return None


def trim_memory() -> None:
    """Returns what was freed to the system, where the C library is glibc."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_mib(field: str) -> float:
    """Resident memory of this process by a field of /proc/self/status: "VmRSS" now, "VmHWM" at its peak."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def busy_seconds(stat: str) -> float:
    """Seconds that all cores together were busy or taken away, from the text of /proc/stat."""
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.splitlines()[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def git_commit() -> str:
    """Short hash of the checkout, with "+changes" where files under version control differ from it."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def command_line(module: str, arguments: Sequence[str]) -> str:
    """The command as one would type it; of a path that starts at the root only the last part is told."""
    return shlex.join(["python", "-m", module, *map(_without_folder, arguments)])


def _without_folder(argument: str) -> str:
    flag, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return flag + equals + (pathlib.PurePath(value).name if value.startswith("/") else value)


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
