"""What runs as a process of its own: trainings, watched from outside by the progress that they print, and calls."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from defect_pipeline.errors import PipelineError
from defect_pipeline_tests.benchmarks.timing import seconds

PROGRESS = re.compile(r"(\d+)/\d+ \[[^\]]*loss=([^\],\s]+)[\],]")  # tqdm's bar with a loss behind it
ONCE = {"TQDM_MININTERVAL": "1e9"}  # the bar is printed when it is given the step's loss, and at no other time


@dataclass(frozen=True)
class Watched:
    """The steps of a training after its first few: seconds of all of them, the loss of each; bytes, the most that the
    process held of its device's memory up to the last step, start included (0 where the system does not tell)."""

    seconds: float
    losses: list[float]
    memory: int


def watch(
    command: Sequence[str], *, steps: int, first: int, environment: Mapping[str, str], device: str = "cpu"
) -> Watched:
    """Run a training of ``steps`` steps and time those after the ``first``; what it does after the last is cut short.

    Raises PipelineError with its last lines where it ends before.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0, env=os.environ | ONCE | environment
    )
    assert process.stdout is not None
    times: dict[int, float] = {}
    losses: dict[int, float] = {}
    said, read, memory, before = "", 0, 0, 0 if device == "cpu" else _in_use(device)
    with process:
        try:
            while steps not in losses:
                if not (chunk := process.stdout.read(1 << 16)):
                    raise PipelineError(f"{' '.join(command)} ended before step {steps}: {said[-2000:].strip()}")
                now, said = time.perf_counter(), said + chunk.decode(errors="replace")
                for found in PROGRESS.finditer(said, read):
                    step, read = int(found[1]), found.end()
                    times.setdefault(step, now)  # a bar at rest is printed again
                    losses[step] = float(found[2])
                held = peak_memory(process.pid) if device == "cpu" else _in_use(device) - before
                memory = max(memory, held)
        finally:
            process.kill()
    timed = range(first + 1, steps + 1)
    return Watched(times[steps] - times[first], [losses[step] for step in timed], memory)


def _in_use(device: str) -> int:
    """Bytes of an accelerator's memory, whoever holds them."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def peak_memory(pid: int) -> int:
    """Bytes, the most that a process has held, 0 where the system does not tell.

    Not getrusage's: a child's figure there begins with what its parent held when it was started.
    """
    status = Path(f"/proc/{pid}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


def apart(call: Callable[[], object]) -> tuple[float, int]:
    """Seconds of a call in a fresh process, its start not counted, and bytes, the most that the process held."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_measured, call).result()


def _measured(call: Callable[[], object]) -> tuple[float, int]:
    took = seconds(call)
    return took, peak_memory(os.getpid())
