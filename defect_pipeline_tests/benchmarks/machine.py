"""What this machine can do, what a call asks of it, and by what versions it is done."""

import functools
import os
import platform
from collections.abc import Callable

import diffusers
import torch
from torch.utils.flop_counter import FlopCounterMode

from defect_pipeline_tests.benchmarks.timing import seconds

SIDE, TRIES = 2048, 8


@functools.cache
def peak() -> float:
    """Floating-point operations a second, in float32: the best of a few products of large matrices."""
    a, b = torch.rand(2, SIDE, SIDE)
    return 2 * SIDE**3 / min(seconds(lambda: a @ b) for _ in range(TRIES))


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of a call's products, convolutions and attention, forwards and backwards."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def versions() -> dict[str, str | int]:
    """What figures depend on beside the code."""
    return {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }
