"""What `submit` returns."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import Future as StandardFuture
from typing import Generic, TypeVar

from ._offloop import Job

T = TypeVar("T")

CANCELLED = ("CANCELLED", "CANCELLED_AND_NOTIFIED")


class Future(StandardFuture[T], Generic[T]):
    """A `concurrent.futures.Future` whose `cancel` reaches the job.

    A queued job never runs then. One that runs in a process is killed, and its worker replaced.
    """

    _job: Job | None = None
    _translate: Callable[[BaseException], BaseException] | None = None
    """What an error means for this job's pool."""

    def cancel(self) -> bool:
        """Cancels the job, unless it has ended; says whether it is cancelled. Does not block."""
        if not super().cancel():
            return False
        # Nobody else will tell those who wait.
        with self._condition:
            notify = self._state == "CANCELLED"
            if notify:
                self.set_running_or_notify_cancel()
        if notify and self._job is not None:
            self._job.cancel()
        return True

    def running(self) -> bool:
        """Whether a worker runs the job at this moment."""
        job = self._job
        return super().running() or (job is not None and job.state == "running")

    def _claim(self) -> bool:
        """Whether the result is still wanted; from then on it cannot be cancelled."""
        with self._condition:
            if self._state != "PENDING":
                return False
            self._state = "RUNNING"
            return True

    def _arrive(self, value: T) -> None:
        if self._claim():
            self.set_result(value)

    def _fail(self, error: BaseException) -> None:
        if self._translate is not None:
            error = self._translate(error)
        if isinstance(error, CancelledError):
            self._job = None
            self.cancel()
        elif self._claim():
            self.set_exception(error)
