"""What a running job can ask about itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from . import _offloop  # pyright: ignore[reportPrivateUsage]


class State:
    """What a worker keeps from job to job: opened when it is first asked for, closed when it is dropped."""

    def __init__(
        self, open: Callable[[], object], close: Callable[[Any], object] | None = None
    ) -> None:
        self._open = open
        self._close = close
        self._value: object = None
        self._is_open = False

    def get(self) -> object:
        """The value. Raises what opening it raises; then it is tried again."""
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
                # Who drops a broken connection has an error of more interest at hand.
                logging.getLogger("offloop").warning(
                    "Exception while a worker's state was closed:", exc_info=True
                )


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
    """Drops this worker's state, because it is broken, say: the next `worker_state()` makes another.

    The pool's `close_worker_state` is called with it, here and now; what that raises is logged. Does nothing if there
    is none to drop.
    """
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


@contextmanager
def on_cancel(
    callback: Callable[[], object], *, repeat: float | None = None
) -> Generator[None, None, None]:
    """Within the `with`, `callback()` is called once the job that runs on this thread should stop: it is cancelled, out
    of time, or its pool gives up. For jobs that block, and cannot ask `is_cancelled()` meanwhile.

        with offloop.on_cancel(connection.cancel_safe, repeat=1):
            return connection.execute("select slow()").fetchone()

    It is called on a thread of its own, so it may block; the job's thread is blocked still. What it raises is logged.
    With `repeat` it is called again, after so many seconds each time, until the `with` is left: a request that came
    before the server had begun cancels nothing.

    Leaving the `with` waits for a call that has begun; afterwards there is none, so the connection's next query
    cannot be hit. Entering it raises `concurrent.futures.CancelledError` if the job should stop already. Outside of a
    job, and in a process, whose jobs are killed, it is never called.
    """
    check()
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

    armed = _offloop.on_cancel(call)
    try:
        check()  # it may have been cancelled meanwhile
        yield
    finally:
        left.set()
        armed.disarm()
        with calling:
            pass
