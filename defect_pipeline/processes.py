"""Processes of this machine, told apart by when they began: a number is given again, in a container to the first one."""

import psutil

SLACK = 2  # seconds; when the machine started is known to the second


def began(pid: int) -> float | None:
    """Seconds from the machine's start to that of the process, whoever sets the clock; None when there is no such process."""
    try:
        return psutil.Process(pid).create_time() - psutil.boot_time()
    except psutil.NoSuchProcess:
        return None


def is_the_same(pid: int, then: float) -> bool:
    """Whether the process that had this number when it had `began` at ``then`` lives."""
    now = began(pid)
    return now is not None and abs(now - then) < SLACK


def has_ended(pid: int, seen: float) -> bool:
    """Whether the process that had this number at the time ``seen`` (seconds since the epoch) is gone."""
    now = began(pid)
    return now is None or psutil.boot_time() + now > seen + SLACK
