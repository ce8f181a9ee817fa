"""The future that a pool's `submit` returns."""

from __future__ import annotations

import concurrent.futures
import contextlib
from _thread import LockType, RLock, allocate_lock
from typing import Any, TypeVar, final

from .._errors import CancelledError, RunTimeout
from .._offloop import blocking, is_cancelled

__all__ = ["Future"]

T = TypeVar("T")


@final
class _Condition(RLock):  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
    """The part of `threading.Condition` that a future needs. Making a whole one takes longer than most calls."""

    _waiting: list[LockType] | None = None
    """A held lock for each thread that waits. Changed only with this condition's lock held."""

    def wait(self, timeout: float | None = None) -> bool:
        """Releases the lock and waits to be notified. Returns False if `timeout` seconds pass first."""
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
        """Ends all waits. The caller holds the lock."""
        while self._waiting:
            self._waiting.pop().release()


class Future(concurrent.futures.Future[T]):
    """A `concurrent.futures.Future` for which a job of the same pool can wait: another thread takes its place."""

    _job: Any = None
    """The engine's job, if the call was submitted."""
    _state: str
    _result: T | None

    def __init__(self) -> None:
        # The standard constructor does the same, with a `threading.Condition`.
        self._condition = _Condition()  # type: ignore[assignment] # pyright: ignore
        self._state = "PENDING"
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []

    # The next two do what the standard ones do, in less time. A `with` statement would take as long as all of the rest.
    # A signal's handler may raise as soon as the lock is held, and while it is waited for: then it is not held.

    def set_running_or_notify_cancel(self) -> bool:
        """Marks the call as running. Returns False if it was cancelled, and notifies those who wait for it."""
        try:
            self._condition.acquire()
            if self._state == "PENDING":
                self._state = "RUNNING"
                return True
            return super().set_running_or_notify_cancel()
        finally:
            if self._condition._is_owned():  # type: ignore[attr-defined] # pyright: ignore
                self._condition.release()

    def set_result(self, result: T) -> None:
        """Ends the call with its value."""
        try:
            self._condition.acquire()
            if self._state not in ("PENDING", "RUNNING"):
                super().set_result(result)  # raises
            self._result = result
            self._state = "FINISHED"
            for waiter in self._waiters:
                waiter.add_result(self)
            self._condition.notify_all()
        finally:
            if self._condition._is_owned():  # type: ignore[attr-defined] # pyright: ignore
                self._condition.release()
        if self._done_callbacks:
            self._invoke_callbacks()  # type: ignore[attr-defined] # pyright: ignore

    def cancel(self) -> bool:
        """Cancels the call unless it has begun. A cancelled call never runs, and leaves the queue at once."""
        cancelled = super().cancel()
        if cancelled and (job := self._job) is not None:
            job.cancel_queued()
        return cancelled

    def result(self, timeout: float | None = None) -> T:
        """Returns the call's value or raises its exception. Waits for at most `timeout` seconds.

        Raises TimeoutError if they pass, CancelledError if the call was cancelled, and RuntimeError in a child made
        by fork(), where the call does not run.
        """
        try:
            if self._state in ("PENDING", "RUNNING"):
                self._check_process()
                return blocking(super().result, timeout)
            return super().result(timeout)
        finally:
            # The exception's traceback holds this frame, which must not hold the future that holds the exception.
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Returns the call's exception, or None. Waits like `result`."""
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
        """Ends the future of a call that has left the queue without being run. Called once, by the binding."""
        error: Any = None if self._job is None else self._job.error()
        if error is None or isinstance(error, CancelledError):
            super().cancel()
        # If the future was cancelled, this wakes the threads that wait for it.
        if self.set_running_or_notify_cancel():
            self.set_exception(error)


class LimitedFuture(Future[T]):
    """The future of a call on a thread whose run is limited. The end of the call or of its time ends it, whichever
    comes first."""

    def set_running_or_notify_cancel(self) -> bool:
        with self._condition:
            # Its time may be over before a thread has the interpreter to begin it.
            return self._state != "FINISHED" and super().set_running_or_notify_cancel()

    def set_result(self, result: T) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            if self._job is None and is_cancelled():
                return  # its time was over before `submit` has returned, which is about to report that
            if (late := self._late()) is not None:
                super().set_exception(late)
            else:
                super().set_result(result)

    def set_exception(self, exception: BaseException | None) -> None:
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            super().set_exception(self._late() or exception)

    def _late(self) -> BaseException | None:
        """Returns the error of a call whose time is over. A function that stops then may end before it is reported."""
        error: BaseException | None = None if self._job is None else self._job.error()
        return error if isinstance(error, RunTimeout) else None

    def _overrun(self, error: BaseException) -> None:
        """Ends the future because the engine has ended the call. Called once, by the binding."""
        if isinstance(error, RunTimeout):
            self.set_exception(error)
