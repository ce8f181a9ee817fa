"""The base of the executors on engines of others."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Literal, Never, overload

from .. import _calls
from .._errors import PoolClosed
from .._offloop import CallOptions, Metrics, blocking
from .._pools.executor import PicklingFailed
from .._pools.exit import drain_at_exit, exit_handler
from .._pools.pickled_call import pickle_call
from .._pools.remote import RemotePool
from .._pools.shutdown import ShutdownReport, check_drain_alone
from .._pools.stream import ItemStream
from .._requests import of_call
from .job import EngineJob
from .parcels import CallParcel, Terms, call_packed

CHECK_EVERY = 0.25
"""The seconds between two looks at whether the engine is still there, while jobs are under way."""

CHECKS_BETWEEN_LOOKS = 12
"""The number of such looks between two at which the engine itself is asked."""

CHECKS_WHEN_IDLE = 40
"""The number of such looks without a job after which the thread that looks ends."""


class Unchanged:
    """Gives the users of an executor the exceptions of its jobs as they are."""

    def raised(self, error: BaseException) -> BaseException:
        """Returns the exception of a job that has raised `error`."""
        return error

    def failed(self, error: BaseException) -> BaseException:
        """Returns the exception of a job that has no result."""
        return error


class EngineExecutor(RemotePool):
    """An executor whose jobs an engine runs. A subclass carries them, and stops them.

    Each job has a coroutine that carries it, on the engine's event loop. `_lock` guards the jobs that have not ended.
    """

    _engine = ""
    """The engine's name, for messages."""
    _translator = Unchanged()
    _has_priorities = True
    """True if the engine runs calls with a higher priority first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, exit_timeout: float | None) -> None:
        self._loop = loop
        """The event loop on which jobs are carried."""
        self._exit_timeout = exit_timeout
        self._closed = False
        self._lock = threading.Condition()
        self._jobs: dict[EngineJob, None] = {}
        """The jobs that have not ended, in their order."""
        self._watches = False
        """True while a thread looks for the engine's loss."""
        _executors.add(self)

    # What a subclass does.

    async def _carry(self, job: EngineJob, call: CallParcel, priority: int) -> None:
        """Hands a call to the engine, and ends its job with what becomes of it."""
        raise NotImplementedError

    async def _drop(self, job: EngineJob) -> None:
        """Makes the engine drop the call of a job that has ended, or kill it."""
        raise NotImplementedError

    def _lost(self) -> str | None:
        """Returns why the engine can report no more ends; None if it can. Does not block."""
        raise NotImplementedError

    def _look(self) -> None:
        """Asks the engine itself whether it is there, so that `_lost` knows. May block, for a minute or so."""

    # Submitting.

    def _dispatch(
        self,
        receiver: Any,
        loop: asyncio.AbstractEventLoop | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> Any:
        _calls.check_sync(fn)
        self._check_open()
        priority = 0 if options is None else options.priority
        if priority and not self._has_priorities:
            raise ValueError(f"priority is {priority}, but {self._engine} has no priorities: leave it at 0")
        try:
            # The engine may pickle later, and the caller may change the arguments meanwhile.
            pickled = pickle_call(fn, args, kwargs, call_packed).copied()
        except PicklingFailed:
            # The traceback of the reason leads to this frame, which must not hold the future that will hold the reason.
            del receiver
            raise
        name = pickled.name
        starts, request = 1, of_call(options, contextvars.copy_context())
        if options is not None:
            name, starts = options.name or name, 1 + options.retries
        job = EngineJob(self, name, options, receiver, loop)
        terms = Terms(name, job.timeout, starts, request)
        self._begin(job, CallParcel(terms, pickled.body, pickled.buffers), priority)
        return job

    def _check_open(self) -> None:
        if exit_handler.has_begun:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if (reason := self._lost()) is not None:
            raise PoolClosed(reason)

    def _begin(self, job: EngineJob, call: CallParcel, priority: int) -> None:
        with self._lock:
            self._check_open()  # under the lock: a shutdown that has begun waits for no more jobs
            self._jobs[job] = None
            if not self._watches:
                self._watches = True
                threading.Thread(target=self._watch, name=f"offloop-{self._engine}", daemon=True).start()
        if not self._spawn(self._carry_safely(job, call, priority)):
            job.fail(PoolClosed(self._lost() or f"the event loop of {self._engine} is closed"))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> bool:
        """Runs a coroutine on the engine's loop. Returns whether that is possible."""
        try:
            asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:  # the loop is closed
            coroutine.close()
            return False
        return True

    async def _carry_safely(self, job: EngineJob, call: CallParcel, priority: int) -> None:
        try:
            await self._carry(job, call, priority)
        except asyncio.CancelledError:
            job.fail(PoolClosed(self._lost() or f"{self._engine} has stopped carrying `{job.name}`"))
            raise
        except BaseException as error:
            job.raise_(error)

    def _stop(self, job: EngineJob) -> None:
        # If that is not possible, the engine is gone, and nothing of the job is left.
        self._spawn(self._drop(job))

    def _forget(self, job: EngineJob) -> None:
        with self._lock:
            self._jobs.pop(job, None)
            if not self._jobs:
                self._lock.notify_all()

    def _watch(self) -> None:
        """Ends all jobs if the engine is gone. Runs on a thread of its own, while there are jobs and a little longer."""
        idle = 0
        for check in itertools.count(1):
            time.sleep(CHECK_EVERY)
            with self._lock:
                jobs = list(self._jobs)
                idle = 0 if jobs else idle + 1
                if idle > CHECKS_WHEN_IDLE:
                    self._watches = False
                    return
            if jobs and check % CHECKS_BETWEEN_LOOKS == 0:
                # If the engine cannot be asked, `_lost` knows why, or the next look does.
                with contextlib.suppress(Exception):
                    self._look()
            reason = self._lost() if jobs else None
            if reason is not None:
                for job in jobs:
                    job.fail(PoolClosed(f"{reason}; `{job.name}` has no result, and may have run"))

    # What the engines do not offer.

    def _stream(
        self,
        fn: Callable[..., Iterable[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> ItemStream[Any]:
        raise NotImplementedError(f"stream: not on {self._engine}; use a ProcessPoolExecutor, or `map`")

    def metrics(self) -> Metrics:
        raise NotImplementedError(f"metrics: {self._engine} has its own; see its dashboard")

    # The end.

    @overload
    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> None: ...

    @overload
    def shutdown(self, wait: Literal[True] = True, *, drain: float) -> ShutdownReport: ...

    def shutdown(
        self,
        wait: bool = True,
        *,
        cancel_futures: bool = False,
        drain: float | None = None,
        timeout: float | None = None,
    ) -> ShutdownReport | None:
        """Takes no more jobs. May be called again. Neither closes the connection to the engine nor ends its workers.

        With `cancel_futures` jobs that have not begun are cancelled. With `wait` it blocks until all accepted jobs have
        ended; for at most `timeout` seconds, after which it raises TimeoutError, and the jobs go on.

        `drain` is the number of seconds for which it waits for accepted jobs. Then all others are cancelled, and those
        that run are killed. Returns what became of the jobs.
        """
        if drain is not None:
            check_drain_alone(wait, cancel_futures, timeout)
            return self._drain(drain)
        if wait:
            self._check_may_block()
        for job in self._close():
            if cancel_futures and job.state == "queued":
                job.abort()
        if wait and not self._wait(timeout):
            raise TimeoutError(
                f"{self._engine} was still running {len(self._jobs)} jobs {timeout} s after the shutdown; they go on"
            )
        return None

    def _close(self) -> list[EngineJob]:
        """Takes no more jobs. Returns those that have not ended."""
        with self._lock:
            self._closed = True
            return list(self._jobs)

    def _wait(self, timeout: float | None) -> bool:
        """Waits until no job is left. Returns False if `timeout` seconds pass first."""

        def wait() -> bool:
            with self._lock:
                return self._lock.wait_for(lambda: not self._jobs, timeout)

        return blocking(wait)

    def _check_may_block(self) -> None:
        """Raises RuntimeError if waiting on this thread would block the engine's own event loop, and so never end."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return
        if running is self._loop and self._jobs:
            raise RuntimeError(
                f"this would block the event loop that reports the ends of {self._engine}'s jobs: await `aclose()`, or use "
                f"`async with`"
            )

    def _drain(self, seconds: float | None) -> ShutdownReport:
        jobs = self._close()
        self._wait(seconds)
        cancelled = killed = 0
        for job in jobs:
            running = job.state == "running"
            if job.abort():
                killed += running
                cancelled += not running
        return ShutdownReport(len(jobs) - cancelled - killed, cancelled, killed)

    def _abort(self) -> None:
        for job in self._close():
            job.abort()

    def _end(self) -> list[str]:
        return ["shut down"] if self._closed else []

    def __repr__(self) -> str:
        states = [job.state for job in list(self._jobs)]
        parts = [f"{states.count('running')} running", f"{states.count('queued')} queued", *self._end()]
        return f"<{type(self).__name__}: {', '.join(parts)}>"

    def __reduce__(self) -> Never:
        raise TypeError(f"{type(self).__name__} cannot be pickled: it belongs to the program that has made it")


_executors: weakref.WeakSet[EngineExecutor] = weakref.WeakSet()
"""The executors that may have jobs at the interpreter's exit."""


def _finish_all(begun: float, interrupted: bool) -> None:
    """Waits for accepted jobs for as long as each executor allows, then cancels them."""
    for executor in list(_executors):
        killed = f"jobs killed while {executor._engine} ran them"
        interrupted = drain_at_exit(executor._drain, executor._exit_timeout, begun, interrupted, killed)


exit_handler.add(_finish_all)
