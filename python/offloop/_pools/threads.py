"""Thread pools that take the place of the standard one."""

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
from collections.abc import Callable
from concurrent.futures.thread import BrokenThreadPool
from types import FrameType
from typing import Any, Literal, ParamSpec, TypeVar, final

from .._calls import check_sync, name_of
from .._errors import Closed
from .._pools.executor import Pool, ended_by_ctrl_c
from .._pools.futures import Future
from .._jobs import State, here
from .._pools.loop import JobFuture, mailbox_of
from .._offloop import Life, Metrics, ThreadPool

P = ParamSpec("P")
T = TypeVar("T")
OnFull = Literal["wait", "reject", "caller_runs", "shed_oldest"]
Purpose = Literal["any", "waiting", "computing"]

SLICE = 0.1
"""For so many seconds at most threads are waited for at a time. A signal that comes right before Python goes to sleep
does not wake it, and its handler runs only after that."""

_BROKEN = "A thread initializer failed, the thread pool is not usable anymore"


@final
class _Crew:
    """The threads of a pool. They know it, so it does not know the pool: a pool that is forgotten closes."""

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
        self.closed = False
        # Nobody waits for its calls any more.
        self.abandoned = False
        self.pid = os.getpid()
        # Replaced, never changed: programs iterate over it while threads come and go.
        self.threads: set[threading.Thread] = set()
        self.lives: dict[threading.Thread, Life] = {}
        self.numbers: set[int] = set()
        # Reentrant, because a garbage collection in here may submit.
        self.lock = threading.RLock()
        self.pool: Callable[[], ThreadPool | None] = lambda: None

    def start(self, life: Life) -> None:
        """Starts a thread that lives `life`. Called by the engine."""
        with self.lock:
            number = next(number for number in itertools.count() if number not in self.numbers)
            self.numbers.add(number)
            name = f"{self.prefix}_{number}"
            thread = threading.Thread(name=name, target=self.work, args=(life, number), daemon=True)
            self.lives[thread] = life
            self.threads = self.threads | {thread}
        try:
            thread.start()
        except BaseException:
            # A signal's handler may raise here; if the thread comes nevertheless, its life is over.
            if thread.ident is None:
                self.leave(thread, number)
            raise

    def work(self, life: Life, number: int) -> None:
        if self.worker_state is not None:
            here.state = State(self.worker_state, self.close_worker_state)
        try:
            if self.initializer is not None:
                try:
                    self.initializer(*self.initargs)
                except BaseException:
                    logger = logging.getLogger("concurrent.futures")
                    logger.critical("Exception in initializer:", exc_info=True)
                    self.broken = _BROKEN
                    life.break_with(lambda: BrokenThreadPool(_BROKEN))
            life.run()
            # A child that a job has forked shares the connection with its parent, which still uses it.
            if here.state is not None and self.pid == os.getpid():
                here.state.discard()
        finally:
            self.leave(threading.current_thread(), number)

    def leave(self, thread: threading.Thread, number: int) -> None:
        if self.pid != os.getpid():
            # It has forked: in the child the lock may be held for ever.
            return
        with self.lock:
            self.numbers.discard(number)
            self.lives.pop(thread, None)
            # Whoever closes the pool joins them all.
            if not self.closed:
                self.threads = self.threads - {thread}

    def join(self, deadline: float | None = None) -> bool:
        """Waits for the threads of a closed pool, the calling one excepted; says whether all have ended."""
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
        with self.lock:
            self.closed = True
        if (pool := self.pool()) is not None:
            pool.close()

    def abandon(self) -> None:
        """Cancels what is queued, asks what runs to stop, and waits for nothing, not even at exit."""
        self.abandoned = True
        if self.pid == os.getpid():
            self.close()
            if (pool := self.pool()) is not None:
                pool.abandon()

    def finish(self, begun: float) -> None:
        """Lets accepted work come to its end, as the interpreter exits; but not for ever."""
        if self.abandoned or self.pid != os.getpid():
            return
        self.close()
        deadline = None if self.exit_timeout is None else begun + self.exit_timeout
        try:
            if self.join(deadline):
                return
            print(self.complaint(), file=sys.stderr)
        finally:
            if (pool := self.pool()) is not None:
                pool.cancel_queued()

    def complaint(self) -> str:
        frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]
        pool = self.pool()
        queued = 0 if pool is None else pool.queued()
        lines = [
            f"offloop: the interpreter exits, but after {self.exit_timeout} s (exit_timeout) calls of "
            f"{self.prefix!r} still run. They are left to themselves; queued calls cancelled: {queued}."
        ]
        for thread, life in list(self.lives.items()):
            if (function := life.function) is not None:
                where = _where(frames.get(thread.ident or 0))
                lines.append(f"  {thread.name}: {name_of(function)}{where}")
        return "\n".join(lines)


def _where(frame: FrameType | None) -> str:
    if frame is None or frame.f_code.co_filename == __file__:
        return ""
    code = frame.f_code
    return f", at {code.co_filename}:{frame.f_lineno} in {code.co_name}"


_crews: weakref.WeakSet[_Crew] = weakref.WeakSet()
_unnamed = itertools.count()
_exiting = False


def _exit() -> None:
    global _exiting
    _exiting = True
    begun = time.monotonic()
    interrupted = ended_by_ctrl_c()
    for crew in list(_crews):
        if interrupted:
            crew.abandon()
        crew.finish(begun)


# As the standard pools do: before the interpreter waits for threads that are no daemons.
threading._register_atexit(_exit)  # type: ignore[attr-defined] # pyright: ignore


class _Queued:
    """The queue, for programs that look at its length."""

    def __init__(self, pool: ThreadPool) -> None:
        self._pool = pool

    def qsize(self) -> int:
        """How many calls wait for a thread."""
        return self._pool.queued()


class ThreadPoolExecutor(Pool, concurrent.futures.ThreadPoolExecutor):
    """A pool of threads that grows when its calls wait and shrinks when there are none.

    It takes the place of `concurrent.futures.ThreadPoolExecutor`, and its parameters mean the same. Further ones:

    queue_capacity, on_full: how many calls may wait for a thread, and what becomes of one more: it waits for room
    ("wait"; `submit` does not block for it), it is refused with `QueueFull` ("reject"), the submitting thread runs
    it ("caller_runs"), or the oldest in the queue ends with `Shed` ("shed_oldest").

    idle_timeout: seconds without work after which a thread leaves.

    worker_state: makes a value for each worker, which `offloop.worker_state()` returns in its jobs.

    close_worker_state: called with that value, by the worker itself, when it leaves or the value is discarded.

    exit_timeout: for how many seconds the interpreter's exit waits for calls that were accepted; None: for ever. If
        Ctrl-C has ended the program it waits for none.

    purpose: "waiting" if it is for calls that wait: those that compute are then logged, once each, by the logger
    `offloop.advice`, and told by `metrics().advice`. "computing" is the other way round, "any" gives no advice.
    """

    _chunks_travel = False
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
        purpose: Purpose = "any",
    ) -> None:
        if max_workers is None:
            cores: int | None = getattr(os, "process_cpu_count", os.cpu_count)()
            max_workers = min(32, (cores or 1) + 4)
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._max_workers = max_workers
        self._thread_name_prefix = thread_name_prefix or f"ThreadPoolExecutor-{next(_unnamed)}"
        self._shutdown = False
        self._crew = _Crew(
            self._thread_name_prefix,
            initializer,
            initargs,
            worker_state,
            close_worker_state,
            exit_timeout,
        )
        self._pool = ThreadPool(
            self._crew.start,
            self._thread_name_prefix,
            purpose,
            max_workers,
            queue_capacity,
            on_full,
            idle_timeout,
        )
        self._crew.pool = weakref.ref(self._pool)
        self._work_queue = _Queued(self._pool)  # type: ignore[assignment] # pyright: ignore
        _crews.add(self._crew)

    @property
    def _threads(  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        self,
    ) -> set[threading.Thread]:
        return self._crew.threads

    @property
    def _broken(  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        self,
    ) -> str | Literal[False]:
        return self._crew.broken

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Calls `fn(*args, **kwargs)` on a thread, in a copy of the caller's context. Does not block.

        Raises TypeError for an async function, RuntimeError after the shutdown, `QueueFull` if the policy says so.
        """
        self._check_open()
        check_sync(fn)
        # Not `Future[T]()`, which takes a quarter longer.
        future: Future[T] = Future()
        try:
            self._pool.submit(future, contextvars.copy_context().run, (fn, *args), kwargs or None)
        except Closed:
            self._check_open()
            raise
        return future

    def _start(
        self,
        future: JobFuture[Any],
        loop: asyncio.AbstractEventLoop,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
        queue_timeout: float | None,
        priority: int,
    ) -> None:
        self._check_open()
        check_sync(fn)
        future._job = self._pool.run(  # pyright: ignore[reportPrivateUsage]
            future,
            mailbox_of(loop),
            contextvars.copy_context().run,
            (fn, *args),
            kwargs or None,
            timeout,
            queue_timeout,
            priority,
        )

    def metrics(self) -> Metrics:
        return self._pool.metrics()

    def _check_open(self) -> None:
        if self._crew.broken:
            raise BrokenThreadPool(self._crew.broken)
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _exiting:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls. Accepted ones still run, unless `cancel_futures` cancels those that have not begun.

        Blocks until all have ended, if it is to `wait`. In a child made by fork() it does nothing.
        """
        self._shutdown = True
        if self._crew.pid != os.getpid():
            return
        self._crew.close()
        if cancel_futures:
            self._pool.cancel_queued()
        if wait:
            self._crew.join()

    def _abort(self) -> None:
        self._shutdown = True
        self._crew.abandon()
