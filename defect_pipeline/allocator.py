"""Memory that a training step frees is kept for the next one, and given back when a stage is done.

glibc gives large blocks back to the system on every free and faults them in again a step later; on two cores that was a
third of the time of a small U-Net's training (1.6x as many images a second without it). No block is mapped by itself, for
those are given back whatever the thresholds say, and none of 32 MiB or more can be spared that by a threshold: another 5 %
of a concept's training, 10 to 20 % of adapters', 7 % of the segmentor's.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> None:
    """Tell glibc's malloc not to return memory to the system in this process; elsewhere this does nothing."""
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 256 << 20)):
        _call("mallopt", option, value)


def return_freed_memory() -> None:
    """Give back now what `keep_freed_memory` has kept: between two stages it serves nothing."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    """A function of glibc, where there is one."""
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
    if function is not None:
        function(*arguments)
