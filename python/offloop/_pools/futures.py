"""The future that a pool's `submit` returns."""

from __future__ import annotations

import concurrent.futures
from _thread import LockType, RLock, allocate_lock
from typing import Any, TypeVar, final

from .._errors import CancelledError
from .._offloop import blocking

T = TypeVar("T")


@final
class _Condition(RLock):  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
    """What a future needs of `threading.Condition`, which takes much longer to make than most calls to be made."""

    _waiting: list[LockType] | None = None

    def wait(self, timeout: float | None = None) -> bool:
        """Waits to be notified, with the lock released; False if `timeout` seconds pass first."""
        waiter = allocate_lock()
        waiter.acquire()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(waiter)
        held: Any = self._release_save()  # type: ignore[attr-defined] # pyright: ignore
        notified = False
        try:
            notified = waiter.acquire(True, -1 if timeout is None else max(0.0, timeout))
        finally:
            self._acquire_restore(held)  # type: ignore[attr-defined] # pyright: ignore
            if not notified and waiter in self._waiting:
                self._waiting.remove(waiter)
        return notified

    def notify_all(self) -> None:
        """Ends all waits; the caller holds the lock."""
        while self._waiting:
            self._waiting.pop().release()


class Future(concurrent.futures.Future[T]):
    """A `concurrent.futures.Future` that may be waited for in a job of its own pool: another thread stands in."""

    _job: Any = None
    """The engine's job, if it was submitted."""
    _state: str
    _result: T | None

    def __init__(self) -> None:
        # What the standard one does, with another condition.
        self._condition = _Condition()  # type: ignore[assignment] # pyright: ignore
        self._state = "PENDING"
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []

    def cancel(self) -> bool:
        """Cancels the call unless it has begun; then it never runs, and leaves its place in the queue at once."""
        cancelled = super().cancel()
        if cancelled and (job := self._job) is not None:
            job.cancel_queued()
        return cancelled

    def result(self, timeout: float | None = None) -> T:
        """The call's value, waited for at most `timeout` seconds, or its exception.

        Raises TimeoutError, CancelledError, or RuntimeError in a child made by fork(), where nobody runs the call.
        """
        try:
            if self._state in ("PENDING", "RUNNING"):
                self._check_process()
                return blocking(super().result, timeout)
            return super().result(timeout)
        finally:
            # The exception's traceback holds this frame, and the future the exception.
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The call's exception, or None; waited for like `result`."""
        if self._state in ("PENDING", "RUNNING"):
            self._check_process()
            return blocking(super().exception, timeout)
        return super().exception(timeout)

    def _check_process(self) -> None:
        if self._job is not None and self._job.is_forked():
            raise RuntimeError(
                "the call was submitted before fork() and runs in the parent process; "
                "build a new pool in the child"
            )

    def _abandon(self) -> None:
        """The call has left the queue without being run. Called once."""
        error: Any = None if self._job is None else self._job.error()
        if error is None or isinstance(error, CancelledError):
            super().cancel()
        # Tells those who wait, if it was cancelled.
        if self.set_running_or_notify_cancel():
            self.set_exception(error)
