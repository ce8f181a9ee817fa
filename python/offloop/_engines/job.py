"""A call that an engine runs: for futures what `_offloop.Job` is to those of a pool."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol, final

from .._errors import CancelledError
from .._offloop import CallOptions
from .._worker import remote_errors
from .._worker.replies import RESULT
from .parcels import FAILED, Reply, load


class Owner(Protocol):
    """The executor of a job."""

    def _stop(self, job: EngineJob) -> None:
        """Makes the engine drop a job that has ended, or kill it if it runs. Does not block."""
        raise NotImplementedError

    def _forget(self, job: EngineJob) -> None:
        """Removes a job that has ended from those of the executor."""
        raise NotImplementedError


@final
class EngineJob:
    """A job: queued, running, ended. Whoever ends it first, the engine, a limit, or a cancel, ends it alone."""

    handle: Any = None
    """The engine's name for the call. Set by the executor when it hands the call over."""

    def __init__(
        self,
        owner: Owner,
        name: str,
        options: CallOptions | None,
        receiver: Any,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.name = name
        self.timeout = None if options is None else options.timeout
        self.queue_timeout = None if options is None else options.queue_timeout
        self.submitted = time.monotonic()
        self._owner = owner
        self._receiver = receiver
        """The future. Dropped when it has the report of the end."""
        self._loop = loop
        """The event loop on which the future lives, if it is one of asyncio."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        """Held while the state changes."""
        self._state: Literal["queued", "running", "ended"] = "queued"

    @property
    def state(self) -> Literal["queued", "running", "ended"]:
        """The job's state, as far as the engine has reported it."""
        return self._state

    def queue_time_left(self) -> float | None:
        """Returns the seconds until its `queue_timeout` is over; None if it has none."""
        if self.queue_timeout is None:
            return None
        return max(0.0, self.submitted + self.queue_timeout - time.monotonic())

    def is_forked(self) -> bool:
        """Returns whether this process is a fork of the one that has submitted the job."""
        return os.getpid() != self._pid

    def begin(self) -> None:
        """Records that a worker runs the job."""
        with self._lock:
            if self._state == "queued":
                self._state = "running"

    def cancel(self) -> bool:
        """Ends the job unless it has ended. Returns whether that ended it. The future gets no report."""
        if not self._end():
            return False
        self._owner._forget(self)
        self._owner._stop(self)
        return True

    def cancel_queued(self) -> bool:
        """Does the same unless a worker runs it."""
        return self._state == "queued" and self.cancel()

    def abort(self, error: BaseException | None = None) -> bool:
        """Ends the job unless it has ended, with `error`, or as cancelled. Returns whether that ended it."""
        ended = self.fail(error or CancelledError(f"{self.name} was cancelled: its executor was shut down"))
        if ended:
            self._owner._stop(self)
        return ended

    def receive(self, reply: Reply, copy: bool) -> None:
        """Ends the job with the engine's reply."""
        if reply.code != RESULT:
            error = remote_errors.unpack(bytes(reply.body))
            self.fail(error) if reply.code == FAILED else self.raise_(error)
            return
        try:
            value = load(reply, copy)
        except BaseException as why:
            self.raise_(remote_errors.without_own_frames(why))
        else:
            self._report("_arrive", value)

    def raise_(self, error: BaseException) -> bool:
        """Ends the job with an exception of its own."""
        return self._report("_raise", error)

    def fail(self, error: BaseException) -> bool:
        """Ends the job without a result, for the reason `error`."""
        return self._report("_fail", error)

    def _end(self) -> bool:
        with self._lock:
            if self._state == "ended":
                return False
            self._state = "ended"
            return True

    def _report(self, method: str, value: Any) -> bool:
        if not self._end():
            return False
        receiver, self._receiver = self._receiver, None
        report: Callable[[Any], object] = getattr(receiver, method)
        if self._loop is None:
            report(value)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing waits
                self._loop.call_soon_threadsafe(report, value)
        # After the report: the end of a shutdown means that all futures have ended.
        self._owner._forget(self)
        return True
