"""How long something takes, by the clock and by the processors: what other programs do hardly changes the second."""

import os
import time
from typing import NamedTuple


class Times(NamedTuple):
    """A point in time, or what passes between two."""

    seconds: float
    """On the clock."""
    processor_seconds: float
    """Of all cores, for this process and those of its children that have ended."""

    @classmethod
    def now(cls) -> "Times":
        """The point in time."""
        return cls(time.perf_counter(), sum(os.times()[:4]))

    def until(self, later: "Times") -> "Times":
        """What passes from this point to another."""
        return Times(*(b - a for a, b in zip(self, later)))

    def plus(self, more: "Times") -> "Times":
        """The point, or the sum, that lies so much further."""
        return Times(*(a + b for a, b in zip(self, more)))
