"""What a running job can ask about itself."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from . import _offloop  # pyright: ignore[reportPrivateUsage]


class State:
    """What a worker keeps from job to job: opened when it is first asked for."""

    def __init__(self, open: Callable[[], object]) -> None:
        self._open = open
        self._value: object = None
        self._is_open = False

    def get(self) -> object:
        """The value. Raises what opening it raises; then it is tried again."""
        if not self._is_open:
            self._value = self._open()
            self._is_open = True
        return self._value

    def discard(self) -> None:
        """Forgets the value, so that the next job opens another."""
        self._value = None
        self._is_open = False


class _Here(threading.local):
    state: State | None = None


here = _Here()
"""What belongs to this thread, if it is a worker."""

process_state: State | None = None
"""What belongs to this process, if it is a worker."""


def _state() -> State:
    state = here.state or process_state
    if state is None:
        raise RuntimeError(
            "there is no worker state here: give the pool a worker_state and ask for it within a job"
        )
    return state


def worker_state() -> Any:
    """What the pool's `worker_state` has made for this worker: a connection, say.

    It belongs to the worker that runs the job, a thread or a process, and to no other; it is made when the worker
    first asks for it. Raises what making it raises, and then it is tried again. Raises RuntimeError outside of a
    job, and in pools that were given no `worker_state`.
    """
    return _state().get()


def discard_worker_state() -> None:
    """Drops this worker's state, because it is broken, say: the next `worker_state()` makes another."""
    _state().discard()


def is_cancelled() -> bool:
    """Whether the job that runs on this thread should stop: cancelled, out of time, or its pool is ending.

    Worth asking in every long loop of a job in a thread. In a process it is always False: whoever is to stop is
    killed.
    """
    return _offloop.is_cancelled()


def check() -> None:
    """Raises `concurrent.futures.CancelledError` once the job that runs on this thread should stop."""
    if is_cancelled():
        raise CancelledError("the job was asked to stop")
