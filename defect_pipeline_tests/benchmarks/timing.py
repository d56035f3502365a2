"""Times of two ways to the same result, taken in turn on one machine."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """Seconds of each repeat; ``theirs`` is empty where nothing comparable is at hand."""

    name: str
    n: int
    ours: list[float]
    theirs: list[float]
    against: str  # what `theirs` is, or what is asked of `ours`
    unit: str = ""  # what n counts, where so many a second says something
    flops: float | None = None  # floating-point operations of `ours`, of all n together
    products: float = math.nan  # share of `ours` that products take, convolutions and attention among them
    memory: tuple[int, int] | None = None  # bytes, the most that the processes of `ours` and `theirs` held
    peak: float = math.nan  # floating-point operations a second that the machine can do

    @property
    def ratio(self) -> float:
        """How many times faster ours is, from medians."""
        return median(self.theirs) / median(self.ours) if self.theirs else float("nan")

    def throughput(self, times: list[float]) -> float:
        """Units a second."""
        return self.n / median(times) if self.unit and times else float("nan")

    @property
    def share(self) -> float:
        """What ours makes of the machine's peak."""
        return self.flops / median(self.ours) / self.peak if self.flops else float("nan")


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of each, one after the other after a warm-up, so that a machine that slows down slows both."""
    ours(), theirs()
    times: tuple[list[float], list[float]] = [], []
    for _ in range(repeats):
        for kept, call in zip(times, (ours, theirs), strict=True):
            kept.append(seconds(call))
    return times


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
