"""What a running job can ask about itself."""

from __future__ import annotations

from typing import Any

from . import _worker


def worker_state() -> Any:
    """What this worker's `worker_state` callable returned; None if its pool has none.

    It belongs to the worker that runs the job, a thread or a process, and to no other.
    """
    return _worker.state


def is_cancelled() -> bool:
    """Whether the job that runs on this thread should stop: cancelled, out of time, or its pool is ending.

    Worth asking in every long loop of a job in a thread. In a process it is always False: whoever is to stop is
    killed.
    """
    return False


def check() -> None:
    """Raises `concurrent.futures.CancelledError` once the job that runs on this thread should stop."""
    if is_cancelled():
        from concurrent.futures import CancelledError

        raise CancelledError("the job was asked to stop")
