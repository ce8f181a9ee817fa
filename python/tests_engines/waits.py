"""Waiting for what must come. The limit is a guard against hanging, not a promise."""

import os
import time
from collections.abc import Callable

LIMIT = 60.0


def until(condition: Callable[[], object], what: str) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"this never came: {what}"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Returns whether a process has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until_gone(pid: int) -> None:
    """Waits until a process has ended."""
    until(lambda: is_gone(pid), f"the end of the process {pid}")
    assert pid != os.getpid()
