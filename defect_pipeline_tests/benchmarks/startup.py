"""Start-up: how long a command takes before it does anything."""

import subprocess
import sys

from defect_pipeline_tests.benchmarks.timing import Row, seconds


def starting(name: str, code: str, repeats: int) -> Row:
    """A fresh process that runs a line of Python; files are in the machine's cache from a first time."""
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True, capture_output=True)
    times = [seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(repeats)]
    return Row(name, 1, times, [], "at most 2 s")
