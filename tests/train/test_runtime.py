"""What a command sets for its process."""

import platform
import subprocess
import sys

import pytest

from benchmarks.machine import ROOT

FAULTS = """
import resource
import numpy as np
from train.runtime import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        np.ones(48 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_memory()
faults()
print(first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's malloc that is set")
def test_freed_memory_is_used_again():
    """Buffers of 48 MiB: each touches its pages for the first time before, and none after."""
    environment = {"PATH": "", "MPLBACKEND": "agg"}
    run = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, env=environment, capture_output=True, text=True)
    before, after = map(int, run.stdout.split())
    # Pages may be of 4 KiB or, where the system makes them huge, of 2 MiB.
    assert before >= 8 * 24 and after <= before / 8, run.stderr


def test_what_the_environment_sets_stays():
    environment = {"PATH": "", "MALLOC_ARENA_MAX": "2"}
    run = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, env=environment, capture_output=True, text=True)
    before, after = map(int, run.stdout.split())
    assert after > before / 2, run.stderr
