"""Processes as Linux shows them: those that a turn of the benches has started, their memory, and their end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on processes whose parent has ended become this one's children, so that none gets away."""
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[int]:
    """Returns the ids of the processes that this one has started, and that they have started."""
    found: list[int] = [os.getpid()]
    for pid in found:
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, file.read_text().split())
    return found[1:]


def kill_descendants() -> None:
    """Kills them, each by its id, until none is left."""
    until = time.monotonic() + 30
    while (left := descendants()) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Returns whether a process lives. One that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2]
    except OSError:
        return False
    return not state.startswith("Z")


def memory(pids: list[int]) -> float:
    """Returns the memory of processes in KiB: the pages that only they have, and their shares of others."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += float(line.split()[1])
    return total
