"""What this machine can do, what a call asks of it, and by what versions it is done."""

import os
import platform
from collections.abc import Callable

import diffusers
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from defect_pipeline_tests.benchmarks.timing import seconds

TRIES = 8
PRODUCTS = "mm", "convolution", "attention"  # in the names of PyTorch's operations, which begin with
ATEN = "aten::"  # unlike the kernels that they call


def peak(device: str, precision: str) -> float:
    """Floating-point operations a second: the best of a few products of large matrices."""
    side = 2048 if device == "cpu" else 8192
    a, b = torch.rand(2, side, side, device=device, dtype=getattr(torch, precision))

    def product() -> float:
        return (a @ b)[0, 0].item()  # waits for the device

    return 2 * side**3 / min(seconds(product) for _ in range(TRIES))


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of a call's products, convolutions and attention, forwards and backwards."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def in_products(call: Callable[[], object], device: str = "cpu") -> float:
    """The share of a call's time that products, convolutions and attention take on the device, forwards and backwards: what
    remains were all else free."""
    on_cpu = device == "cpu"
    with profile(activities=[ProfilerActivity.CPU, *([] if on_cpu else [ProfilerActivity.CUDA])]) as seen:
        elapsed = seconds(call)
    operations = [o for o in seen.key_averages() if o.key.startswith(ATEN)]
    products = [o for o in operations if any(name in o.key for name in PRODUCTS)]
    return sum(o.self_cpu_time_total if on_cpu else o.self_device_time_total for o in products) / 1e6 / elapsed


def versions(device: str) -> dict[str, str | int]:
    """What figures depend on beside the code."""
    return {
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }
