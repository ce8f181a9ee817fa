"""The functions that a running job calls to learn about itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from . import _offloop  # pyright: ignore[reportPrivateUsage]

__all__ = ["check_cancelled", "discard_worker_state", "is_cancelled", "on_cancel", "worker_state"]


class WorkerState:
    """A value that a worker keeps from job to job: opened at its first use, closed when it is discarded."""

    def __init__(
        self, open: Callable[[], object], close: Callable[[Any], object] | None = None
    ) -> None:
        self._open = open
        self._close = close
        self._value: object = None
        self._is_open = False

    def get(self) -> object:
        """Returns the value. Raises what opening it raises; the next call then tries again."""
        if not self._is_open:
            self._value = self._open()
            self._is_open = True
        return self._value

    def discard(self) -> None:
        """Closes and forgets the value, so that the next job opens another. Logs what closing it raises."""
        if not self._is_open:
            return
        value, self._value = self._value, None
        self._is_open = False
        if self._close is not None:
            try:
                self._close(value)
            except Exception:
                # A job that discards a broken connection has a more interesting error to report.
                logging.getLogger("offloop").warning(
                    "close_worker_state raised an exception; the worker's state is discarded nevertheless:",
                    exc_info=True,
                )


class _Local(threading.local):
    state: WorkerState | None = None
    """The state of the pool's worker that is this thread. Set by the pool before the thread's first job."""


_local = _Local()

process_state: WorkerState | None = None
"""The state of the pool's worker that is this process. Set by the worker's initialisation."""


def set_thread_state(state: WorkerState) -> None:
    """Sets the worker state of this thread."""
    _local.state = state


def discard_thread_state() -> None:
    """Discards the worker state of this thread, if there is one."""
    if _local.state is not None:
        _local.state.discard()


def _state() -> WorkerState:
    state = _local.state or process_state
    if state is None:
        raise RuntimeError(
            "there is no worker state here: give the pool a worker_state, and ask for it within a job"
        )
    return state


def worker_state() -> Any:
    """Returns the value that the pool's `worker_state` has made for this worker, such as a connection.

    It belongs to the worker that runs the job, a thread or a process, and to no other. It is made when the worker
    first asks for it. Raises what making it raises; the next call then tries again. Raises RuntimeError outside of
    a job, and in the jobs of pools that were given no `worker_state`.
    """
    return _state().get()


def discard_worker_state() -> None:
    """Discards this worker's state, for example because it is broken: the next `worker_state()` makes another.

    Calls the pool's `close_worker_state` with it, on this thread, and logs what that raises. Does nothing if there
    is no state to discard.
    """
    _state().discard()


def is_cancelled() -> bool:
    """Returns whether the job that runs on this thread should stop: cancelled, out of time, or its pool is ending.

    A job in a thread should ask this in every long loop. In a process it is always False, because a job that is to
    stop is killed there.
    """
    return _offloop.is_cancelled()


def check_cancelled() -> None:
    """Raises `concurrent.futures.CancelledError` once the job that runs on this thread should stop."""
    if is_cancelled():
        raise CancelledError("the job was asked to stop")


@contextmanager
def on_cancel(
    callback: Callable[[], object], *, repeat: float | None = None
) -> Generator[None, None, None]:
    """Calls `callback()` if the job should stop while the `with` block runs: cancelled, out of time, or its pool is
    ending. For jobs that block, and cannot ask `is_cancelled()` meanwhile.

        with offloop.on_cancel(connection.cancel_safe, repeat=1):
            return connection.execute("select slow()").fetchone()

    The callback runs on a thread of its own, so it may block while the job's thread is blocked. What it raises is
    logged. With `repeat` it is called again every `repeat` seconds until the block is left: a cancel request that
    reaches a server before the query has begun has no effect.

    Leaving the block waits for a call that has begun; afterwards there is none, so the connection's next query
    cannot be hit. Entering it raises `concurrent.futures.CancelledError` if the job should stop already. Outside of
    a job, and in a process, whose jobs are killed, the callback is never called.
    """
    check_cancelled()
    calling = threading.Lock()
    left = threading.Event()

    def call() -> None:
        while True:
            with calling:
                if left.is_set():
                    return
                try:
                    callback()
                except Exception:
                    logging.getLogger("offloop").warning(
                        "Exception in a callback of on_cancel:", exc_info=True
                    )
            if repeat is None or left.wait(repeat):
                return

    guard = _offloop.on_cancel(call)
    try:
        check_cancelled()  # the job may have been cancelled before the callback was armed
        yield
    finally:
        left.set()
        guard.disarm()
        with calling:
            pass
