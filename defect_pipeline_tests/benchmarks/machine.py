"""What this machine can do, what a call asks of it, and by what versions it is done."""

import functools
import os
import platform
from collections.abc import Callable

import diffusers
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from defect_pipeline_tests.benchmarks.timing import seconds

SIDE, TRIES = 2048, 8
PRODUCTS = "mm", "convolution", "attention"  # in the names of PyTorch's operations


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


def in_products(call: Callable[[], object]) -> float:
    """The share of a call's time on the processor that products, convolutions and attention take, forwards and backwards:
    what remains were all else free."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        elapsed = seconds(call)
    operations = seen.key_averages()
    return sum(o.self_cpu_time_total for o in operations if any(name in o.key for name in PRODUCTS)) / 1e6 / elapsed


def versions() -> dict[str, str | int]:
    """What figures depend on beside the code."""
    return {
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }
