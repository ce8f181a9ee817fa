"""What a running job can ask about itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from . import _offloop, _worker


class _Here(threading.local):
    """What a pool's thread has of its own."""

    make_state: Callable[[], object] | None = None
    state: object = None


here = _Here()


def worker_state() -> Any:
    """What this worker's `worker_state` callable returned; None if its pool has none.

    It belongs to the worker that runs the job, a thread or a process, and to no other. A thread calls it when a job
    first asks for its value; if it raises, so does this, and the next to ask tries again.
    """
    if here.make_state is not None:
        here.state, here.make_state = here.make_state(), None
    return _worker.state if here.state is None else here.state


def is_cancelled() -> bool:
    """Whether the job that runs on this thread should stop: cancelled, out of time, or its pool is ending.

    Worth asking in every long loop of a job in a thread. In a process it is always False: whoever is to stop is
    killed.
    """
    return _offloop.is_cancelled()


def check() -> None:
    """Raises `concurrent.futures.CancelledError` once the job that runs on this thread should stop."""
    if is_cancelled():
        from concurrent.futures import CancelledError

        raise CancelledError("the job was asked to stop")
