"""The thread pool."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import itertools
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures.thread import BrokenThreadPool
from types import FrameType
from typing import Any, Literal, final, overload

from .._calls import call_streamed, check_sync, name_of
from .._errors import PoolClosed
from .._jobs import WorkerState, discard_thread_state, set_thread_state
from .._offloop import CallOptions, Job, Metrics, ThreadPool, WorkerThread
from . import green
from .cores import usable_cores
from .executor import OnFull, buffersize_of
from .exit import Kind, exit_handler
from .futures import Future
from .loop import JobFuture
from .shutdown import ShutdownReport, check_drain_alone, report_of, still_running
from .stream import Channel, ItemStream, StreamedJob
from .workers import WorkerPool, check_max_workers

__all__ = ["ThreadPoolExecutor"]

Activity = Literal["waits", "computes"]

SLICE = 0.1
"""The longest time, in seconds, for which a thread is joined without a pause. A signal that comes right before Python
begins to wait does not end the wait, and its handler runs only afterwards."""

_BROKEN = "A thread initializer failed, the thread pool is not usable anymore"


@final
class _Workers:
    """The threads of a pool.

    They refer to this object, and it has only a weak reference to the pool, so a pool that is no longer used closes.
    """

    def __init__(
        self,
        prefix: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        worker_state: Callable[[], object] | None,
        close_worker_state: Callable[[Any], object] | None,
        exit_timeout: float | None,
    ) -> None:
        self.prefix = prefix
        self.initializer = initializer
        self.initargs = initargs
        self.worker_state = worker_state
        self.close_worker_state = close_worker_state
        self.exit_timeout = exit_timeout
        self.broken: str | Literal[False] = False
        """The reason why the pool is broken. Set by a thread whose initializer fails."""
        self.closed = False
        """Whether the pool takes no more calls."""
        self.abandoned = False
        """Whether nothing waits for the pool's calls any more, not even the interpreter's exit."""
        self.pid = os.getpid()
        self.threads: set[threading.Thread] = set()
        """The running threads; of a closed pool, also those that have ended and were not joined. Replaced at each
        change, because programs iterate over it."""
        self.worker_threads: dict[threading.Thread, WorkerThread] = {}
        """The running threads, with the engine's side of each."""
        self.numbers: set[int] = set()
        """The numbers in the names of the running threads."""
        # Guards the four above. Reentrant, because a garbage collection while it is held may submit a call.
        self.lock = threading.RLock()
        self.pool: Callable[[], ThreadPool | None] = lambda: None
        """A weak reference to the engine's pool."""

    def start(self, worker: WorkerThread) -> None:
        """Starts a thread that runs `worker`. Called by the engine."""
        green.refuse_for_threads()
        with self.lock:
            number = next(number for number in itertools.count() if number not in self.numbers)
            self.numbers.add(number)
            name = f"{self.prefix}_{number}"
            thread = threading.Thread(name=name, target=self.work, args=(worker, number), daemon=True)
            self.worker_threads[thread] = worker
            self.threads = self.threads | {thread}
        try:
            # A thread may inherit the context of the one that starts it. That of the caller, whose turn it happens to be,
            # would be kept with all its values for as long as the thread lives.
            contextvars.Context().run(thread.start)
        except BaseException:
            # A signal's handler may raise here. A thread that starts nevertheless finds that its `worker` has ended.
            if thread.ident is None:
                self.leave(thread, number)
            raise

    def work(self, worker: WorkerThread, number: int) -> None:
        """Runs a thread of the pool, from its initializer to the end of its state."""
        if self.worker_state is not None:
            set_thread_state(WorkerState(self.worker_state, self.close_worker_state))
        try:
            if self.initializer is not None:
                try:
                    self.initializer(*self.initargs)
                except BaseException:
                    logger = logging.getLogger("concurrent.futures")
                    logger.critical("Exception in initializer:", exc_info=True)
                    self.broken = _BROKEN
                    worker.break_with(lambda: BrokenThreadPool(_BROKEN))
            worker.run()
            # In a child that a job has forked, the state is the parent's, which still uses it.
            if self.pid == os.getpid():
                discard_thread_state()
        finally:
            self.leave(threading.current_thread(), number)

    def leave(self, thread: threading.Thread, number: int) -> None:
        """Removes a thread that is about to end."""
        if self.pid != os.getpid():
            # This is a fork, in which the lock may be held forever.
            return
        with self.lock:
            self.numbers.discard(number)
            self.worker_threads.pop(thread, None)
            # `join` needs all threads of a closed pool.
            if not self.closed:
                self.threads = self.threads - {thread}

    def join(self, deadline: float | None = None) -> bool:
        """Waits for the threads of a closed pool, except the calling one. Returns whether all have ended."""
        joined = {threading.current_thread()}
        while waiting := self.threads - joined:
            for thread in waiting:
                while True:
                    left = SLICE if deadline is None else deadline - time.monotonic()
                    thread.join(max(0.0, min(left, SLICE)))
                    if not thread.is_alive():
                        break
                    if left <= 0:
                        return False
                joined.add(thread)
        return True

    def close(self) -> None:
        """Takes no more calls. Does not block."""
        with self.lock:
            self.closed = True
        if (pool := self.pool()) is not None:
            pool.close()

    def abandon(self) -> None:
        """Cancels queued calls, asks running ones to stop, and waits for nothing, not even at the exit."""
        self.abandoned = True
        if self.pid == os.getpid():
            self.close()
            if (pool := self.pool()) is not None:
                pool.abandon()

    def finish(self, begun: float) -> None:
        """Waits for accepted calls as the interpreter exits, until `exit_timeout` seconds after `begun`."""
        if self.abandoned or self.pid != os.getpid():
            return
        self.close()
        deadline = None if self.exit_timeout is None else begun + self.exit_timeout
        try:
            if self.join(deadline):
                return
            print(self.unfinished(), file=sys.stderr)
        finally:
            if (pool := self.pool()) is not None:
                pool.cancel_queued()

    def unfinished(self) -> str:
        """Returns a message about the calls that the exit does not wait for."""
        frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
        pool = self.pool()
        queued = 0 if pool is None else pool.queued()
        lines = [
            f"offloop: the interpreter exits, but after {self.exit_timeout} s (exit_timeout) calls of the pool "
            f"{self.prefix!r} still run. They are abandoned; queued calls that are cancelled: {queued}."
        ]
        for thread, worker in list(self.worker_threads.items()):
            if (function := worker.function) is not None:
                where = _where(frames.get(thread.ident or 0))
                lines.append(f"  {thread.name}: {name_of(function)}{where}")
        return "\n".join(lines)


def _where(frame: FrameType | None) -> str:
    if frame is None or frame.f_code.co_filename == __file__:
        return ""
    code = frame.f_code
    return f", at {code.co_filename}:{frame.f_lineno} in {code.co_name}"


_all_workers: weakref.WeakSet[_Workers] = weakref.WeakSet()
_unnamed = itertools.count()


def _finish_all(begun: float, interrupted: bool) -> None:
    for workers in list(_all_workers):
        if interrupted:
            workers.abandon()
        workers.finish(begun)


exit_handler.add(Kind.THREADS, _finish_all)


class _Queued:
    """The queue, for programs that ask for its length."""

    def __init__(self, pool: ThreadPool) -> None:
        self._pool = pool

    def qsize(self) -> int:
        """Returns the number of calls that wait for a thread."""
        return self._pool.queued()


class ThreadPoolExecutor(WorkerPool, concurrent.futures.ThreadPoolExecutor):
    """A pool of threads that grows when its calls wait and shrinks when there are none.

    It takes the place of `concurrent.futures.ThreadPoolExecutor`, and its parameters mean the same. Further ones:

    queue_capacity, on_full: the number of calls that may wait for a thread, and the policy for one more: it waits for
    room ("wait"; `submit` does not block for it), it is refused with `QueueFull` ("reject"), the submitting thread
    runs it ("caller_runs"), or the oldest in the queue ends with `JobShed` ("shed_oldest").

    idle_timeout: seconds without work after which a thread ends.

    worker_state: makes a value for each worker, which `offloop.worker_state()` returns in its jobs.

    close_worker_state: called with that value, on the worker's thread, when the worker ends or discards the value.

    exit_timeout: the number of seconds for which the interpreter's exit waits for accepted calls; None: forever. If
    Ctrl-C has ended the program it waits for none.

    activity: "waits" if the pool is for calls that wait. Calls that compute are then logged, once for each function,
    by the logger `offloop.advice`, and reported by `metrics().advice`. With "computes" the calls that wait are
    reported. None gives no advice.
    """

    _uses_chunks = False
    _max_workers: int
    _shutdown: bool

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        queue_capacity: int = 10_000,
        on_full: OnFull = "wait",
        idle_timeout: float = 10.0,
        worker_state: Callable[[], object] | None = None,
        close_worker_state: Callable[[Any], object] | None = None,
        exit_timeout: float | None = 60.0,
        activity: Activity | None = None,
    ) -> None:
        green.refuse_for_threads()
        if max_workers is None:
            max_workers = min(32, usable_cores() + 4)
        check_max_workers(max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._max_workers = max_workers
        self._thread_name_prefix = thread_name_prefix or f"ThreadPoolExecutor-{next(_unnamed)}"
        self._shutdown = False
        self._workers = _Workers(
            self._thread_name_prefix,
            initializer,
            initargs,
            worker_state,
            close_worker_state,
            exit_timeout,
        )
        self._pool = ThreadPool(
            self._workers.start,
            self._thread_name_prefix,
            activity,
            max_workers,
            queue_capacity,
            on_full,
            idle_timeout,
        )
        self._workers.pool = weakref.ref(self._pool)
        self._work_queue = _Queued(self._pool)  # type: ignore[assignment] # pyright: ignore
        _all_workers.add(self._workers)

    @property
    def _threads(  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        self,
    ) -> set[threading.Thread]:
        return self._workers.threads

    @property
    def _broken(  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        self,
    ) -> str | Literal[False]:
        return self._workers.broken

    def _submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> Future[Any]:
        try:
            future: Future[Any] = self._pool.submit(self, fn, args, kwargs, options)
        except PoolClosed:
            # Raises the exception that the standard pool raises, if that is why.
            self._check_open()
            raise
        return future

    def _run(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> JobFuture[Any]:
        future: JobFuture[Any] = self._pool.run(self, fn, args, kwargs, options)
        return future

    def _stream(
        self,
        fn: Callable[..., Iterable[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> ItemStream[Any]:
        stream: ItemStream[Any] = ItemStream()
        channel = Channel(stream._receiver._wake, buffersize_of(options))
        check_sync(fn)
        job = self._dispatch(
            stream._receiver, None, call_streamed, (fn, channel.send, args, kwargs), {}, options
        )
        stream._job = StreamedJob(job, channel)
        return stream

    def _dispatch(
        self,
        receiver: Any,
        loop: asyncio.AbstractEventLoop | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> Job:
        return self._pool.dispatch(self, receiver, loop, fn, args, kwargs, options)

    def metrics(self) -> Metrics:
        return self._pool.metrics()

    def _end(self) -> list[str]:
        if self._workers.broken:
            return ["broken"]
        return ["shut down"] if self._shutdown else []

    def _check_open(self) -> None:
        if self._workers.broken:
            raise BrokenThreadPool(self._workers.broken)
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if exit_handler.has_begun:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

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
        """Takes no more calls. Accepted ones still run, but `cancel_futures` cancels those that have not begun.

        With `wait` it blocks until all have ended; for at most `timeout` seconds, after which it raises TimeoutError, and
        the calls go on. In a child made by fork() it does nothing.

        `drain` is the number of seconds for which it waits for accepted calls. Then queued ones are cancelled, and running
        ones are asked to stop, as `offloop.is_cancelled()` tells them. Returns what became of the calls.
        """
        if drain is not None:
            check_drain_alone(wait, cancel_futures, timeout)
            return self._drain(drain)
        self._shutdown = True
        if self._workers.pid != os.getpid():
            return None
        self._workers.close()
        if cancel_futures:
            self._pool.cancel_queued()
        if wait:
            deadline = None if timeout is None else time.monotonic() + timeout
            if not self._workers.join(deadline):
                raise still_running(timeout, self._pool.queued())
        return None

    def _set_max_workers(self, max_workers: int) -> None:
        self._pool.set_max_workers(max_workers)

    def _drain(self, seconds: float | None) -> ShutdownReport:
        self._shutdown = True
        if self._workers.pid != os.getpid():
            return ShutdownReport()
        self._workers.close()
        report = report_of(self._pool.shutdown(seconds))
        if report.stuck:
            # They were given their time, so the interpreter's exit does not wait for them again.
            self._workers.abandoned = True
        else:
            self._workers.join()
        return report

    def _abort(self) -> None:
        self._shutdown = True
        self._workers.abandon()
