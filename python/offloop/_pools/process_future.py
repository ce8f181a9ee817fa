"""The futures of jobs in processes, and what a crash of a worker does to them."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar

from .. import _offloop
from .._errors import PoolClosed
from .._worker import replies
from .futures import Future
from .listening import Listening
from .outcomes import Translator

if TYPE_CHECKING:
    from .._process_errors import PoolBroken

R = TypeVar("R")


class ProcessFuture(Future[R]):
    """The future of a job in a process. The job can be cancelled while it runs: its process is killed."""

    _listening: Listening | None = None
    """What lets an event loop that waits for the job take its answer. Set for jobs of a pool of this program."""

    def __init__(self, translator: Translator) -> None:
        super().__init__()
        self._translator = translator

    def cancel(self) -> bool:
        """Cancels the job unless it has ended. Returns whether it is cancelled. Does not block."""
        if not super(Future, self).cancel():
            return False
        # No worker will notify the threads that wait for the future.
        with self._condition:
            notify = self._state == "CANCELLED"
            if notify:
                self.set_running_or_notify_cancel()
        if notify and self._job is not None:
            self._job.cancel()
        return True

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Calls `fn(self)` when the future has ended: on the thread that ends it, or now."""
        super().add_done_callback(fn)
        if self._listening is not None and _is_asyncios(fn):
            # A loop has wrapped it: `run_in_executor`, `wrap_future`.
            loop = asyncio._get_running_loop()  # pyright: ignore
            if loop is not None:
                # Some loops watch no descriptors, and there may be none left. Then another thread takes the answer.
                with contextlib.suppress(NotImplementedError, OSError):
                    self._listening.mailbox_on(loop)

    def _end_for_loop(self, end: Callable[[Any], None], outcome: Any) -> bool:
        """Calls `end(outcome)`, which ends the future, on the thread of the event loop that waits for it. Does not if a
        function was attached that might hold up the loop. Returns whether it did."""
        # No function can be attached meanwhile.
        with self._condition:
            if not all(map(_is_asyncios, self._done_callbacks)):
                return False
            try:
                end(outcome)
            except BaseException:
                # Of a signal's handler. It may have come between the end and the calls.
                if self.done():
                    self._invoke_callbacks()  # type: ignore[attr-defined] # pyright: ignore
                raise
            return True

    def running(self) -> bool:
        """Returns whether a worker runs the job at this moment."""
        return not self.done() and self._job is not None and self._job.state == "running"

    def _claim(self) -> bool:
        """Returns whether the future still waits for its result. From then on it cannot be cancelled."""
        with self._condition:
            # It is "RUNNING" if an attempt to end it has failed for lack of memory.
            if self._state not in ("PENDING", "RUNNING"):
                return False
            self._state = "RUNNING"
            return True

    def _arrive(self, value: R) -> None:
        if self._claim():
            self.set_result(value)

    def _raise(self, error: BaseException) -> None:
        error = self._translator.raised(error)
        if self._claim():
            self.set_exception(error)

    def _fail(self, error: BaseException) -> None:
        error = self._translator.failed(error)
        if isinstance(error, CancelledError):
            self._job = None
            self.cancel()
        elif self._claim():
            self.set_exception(error)


def _is_asyncios(callback: Callable[[Any], object]) -> bool:
    """Returns whether a function is one that asyncio attaches to futures, which only schedules a call on a loop."""
    return getattr(callback, "__module__", None) == "asyncio.futures"


class CrashPolicy:
    """The effect of a worker's crash on a pool: with `breaks` it breaks the pool.

    The engine breaks the pool when a worker dies. This does so for what the standard pool takes for a crash as well:
    a worker that could not be started, and a call or a result that could not be unpickled.
    """

    def __init__(self, engine: _offloop.ProcessPool, breaks: bool) -> None:
        self._engine = engine
        self._breaks = breaks

    @property
    def broken(self) -> str | None:
        """The reason why the pool is broken; None if it is not."""
        return self._engine.broken if self._breaks else None

    def pool_broken(self) -> PoolBroken:
        """Returns the exception of a call that a broken pool does not run."""
        from .._process_errors import PoolBroken

        return PoolBroken(f'the pool is broken (on_crash="break"), build a new one: {self.broken}')

    def raised(self, error: BaseException) -> BaseException:
        """Returns the exception of a job that has raised `error`. Breaks the pool if it could not be unpickled."""
        if not self._breaks or not isinstance(error, replies.Unreadable):
            return replies.translate(error)
        part = "the result" if error.has_run else "the arguments"
        self._engine.break_with(f"{part} of `{error.job_name}` could not be unpickled: {error.error!r}")
        broken = self.pool_broken()
        broken.__cause__ = error.error
        return broken

    def failed(self, error: BaseException) -> BaseException:
        """Returns the exception of a job that has no result for the reason `error`. Breaks the pool if that is due."""
        if not self._breaks:
            return error
        from .._process_errors import WorkerStartError

        if isinstance(error, WorkerStartError):
            self._engine.break_with(str(error))
        elif isinstance(error, PoolClosed) and self.broken is not None:
            # The pool broke while the call was being submitted.
            return self.pool_broken()
        return error
