"""The pools that the whole program shares, made when they are first needed."""
# pyright: reportPrivateUsage=false
# mypy: disable-error-code="overload-overlap"

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar, final, overload

from .._calls import check_sync
from .._offloop import CallOptions
from .executor import PicklingFailed, Pool
from .loop import JobFuture
from .outcomes import CONTROL_FLOW, as_error
from .pickled_call import PickledCall, pickle_call
from .threads import ThreadPoolExecutor
from .warm_up import WarmUp

if TYPE_CHECKING:
    from .._calls import AsyncFunctionRefused, AsyncResult
    from .processes import ProcessPoolExecutor

__all__ = ["Options", "configure", "install", "options", "run", "run_cpu", "warm_up"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

MAX_THREADS = 512
"""The number of calls that may wait at the same time, unless `configure` gives another."""

ThreadsMaker = Callable[[], ThreadPoolExecutor]
ProcessesMaker = Callable[[], "ProcessPoolExecutor"]

IDLE_TIMEOUT = 60.0
"""The seconds without a job after which a worker of the shared process pool leaves. It has no initializer whose work would
be lost."""

_lock = threading.Lock()
"""Held while what follows is written."""
_threads: ThreadPoolExecutor | None = None
_processes: ProcessPoolExecutor | None = None
_coming: PoolToCome | None = None
"""The shared process pool while it is being made."""


def _make_threads(max_workers: int = MAX_THREADS) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers, thread_name_prefix="offloop", activity="waits")


def _make_processes(max_workers: int | None = None) -> ProcessPoolExecutor:
    from .processes import ProcessPoolExecutor

    return ProcessPoolExecutor(max_workers, name="offloop", idle_timeout=IDLE_TIMEOUT)


_threads_maker: ThreadsMaker = _make_threads
_processes_maker: ProcessesMaker = _make_processes


def threads() -> ThreadPoolExecutor:
    """Returns the shared thread pool, for calls that wait."""
    global _threads
    if (pool := _threads) is not None:
        return pool
    with _lock:
        if _threads is None:
            _threads = _made(_threads_maker, ThreadPoolExecutor, "threads")
        return _threads


def processes() -> ProcessPoolExecutor:
    """Returns the shared process pool, for calls that compute. Blocks while it is being made."""
    pool = cpu_pool()
    return pool.wait() if isinstance(pool, PoolToCome) else pool


def cpu_pool() -> ProcessPoolExecutor | PoolToCome:
    """Returns the shared process pool, or one that stands for it while it is being made. Does not block."""
    global _coming
    if (pool := _processes) is not None:
        return pool
    with _lock:
        if _processes is not None:
            return _processes
        if _coming is None:
            _coming = PoolToCome(_processes_maker)
            _coming.start()
        return _coming


def _made(maker: Callable[[], T], expected: type[T], name: str) -> T:
    """Makes a shared pool. What the function raises is an error wherever it comes: it ends no iteration, and no task."""
    try:
        pool = maker()
    except CONTROL_FLOW as error:
        raise as_error(error, f"configure: the function given as {name}") from error
    if not isinstance(pool, expected):
        raise TypeError(
            f"configure: the function given as {name} returned {type(pool).__name__}; "
            f"it must return an offloop.{expected.__name__}"
        )
    return pool


class PoolToCome(Pool):
    """The shared process pool while a thread makes it, so that no event loop waits for that.

    Calls are pickled at once, and submitted on their loop when the pool is there.
    """

    def __init__(self, maker: ProcessesMaker) -> None:
        self._maker = maker
        self._lock = threading.Lock()
        """Held while what follows is written."""
        self._calls: list[CallToCome] = []
        """The calls that wait for the pool."""
        self._made = threading.Event()
        """Set when there is a pool, or an error."""
        self._pool: ProcessPoolExecutor | None = None
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begins to make the pool."""
        thread = threading.Thread(target=self._make, name="offloop-start", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left
            self._make()

    def _make(self) -> None:
        global _processes, _coming
        pool = error = None
        try:
            from .processes import ProcessPoolExecutor, errors_later

            with errors_later():
                pool = _made(self._maker, ProcessPoolExecutor, "processes")
            pool._follow_program()
        except BaseException as raised:
            error = raised
        with self._lock:
            self._pool, self._error = pool, error
            calls, self._calls = self._calls, []
        with _lock:
            if _coming is self:
                _processes, _coming = pool, None
        self._made.set()
        for call in calls:
            call.wake(self.now)
        if pool is not None:
            pool._import_errors()

    def now(self) -> ProcessPoolExecutor:
        """Returns the pool, which has been made, or raises the reason why there is none."""
        if self._pool is None:
            assert self._error is not None
            raise self._error
        return self._pool

    def wait(self) -> ProcessPoolExecutor:
        """Returns the pool when it is made. Blocks."""
        self._made.wait()
        return self.now()

    def _dispatch(
        self,
        receiver: Any,
        loop: asyncio.AbstractEventLoop | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> Any:
        assert loop is not None
        check_sync(fn)
        call = CallToCome(receiver, loop, pickle_call(fn, args, kwargs).copied(), options)
        with self._lock:
            if not self._has_been_made():
                self._calls.append(call)
                return call
        return call.send(self.now())

    def _has_been_made(self) -> bool:
        return self._pool is not None or self._error is not None


@final
class CallToCome:
    """A call that waits for the shared process pool to be made: its job until then."""

    def __init__(
        self,
        receiver: Any,
        loop: asyncio.AbstractEventLoop,
        call: PickledCall,
        options: CallOptions | None,
    ) -> None:
        self._receiver = receiver
        self._loop = loop
        self._call = call
        self._options = options
        self._context = contextvars.copy_context()
        """The context of the caller, whose values may travel with the call."""

    def cancel(self) -> bool:
        """Does nothing: the call of a future that has ended is not sent."""
        return False

    def wake(self, pool: Callable[[], ProcessPoolExecutor]) -> None:
        """Makes the loop send the call. Called on the thread that has made the pool."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing waits for the call
            self._loop.call_soon_threadsafe(self._send_late, pool)

    def _send_late(self, pool: Callable[[], ProcessPoolExecutor]) -> None:
        receiver = self._receiver
        if receiver.done():
            return
        try:
            receiver._job = self.send(pool())
        except PicklingFailed as failed:
            receiver._raise(failed.error)
        except BaseException as error:
            receiver._fail(error)

    def send(self, pool: ProcessPoolExecutor) -> Any:
        """Submits the call to the pool, and returns its job."""
        pool._check_open()
        return self._context.run(
            pool._send, self._receiver, self._loop, self._call, self._options
        )


def configure(
    *,
    threads: int | ThreadsMaker | None = None,
    processes: int | ProcessesMaker | None = None,
) -> None:
    """Sets how the shared pools of `offloop.run` and `offloop.run_cpu` are made. Does not block.

    Each is given the largest number of its workers, or a function without arguments that makes the pool:

        offloop.configure(threads=64, processes=lambda: offloop.ProcessPoolExecutor(4, preload=["numpy"]))

    The pool is made when it is first needed, and anew in a child made by fork(). One that is there already finishes the
    calls that it has; later ones go to a new pool. What is left out stays as it is. Raises TypeError or ValueError for
    anything else, such as a pool itself, which a forked child could not use.
    """
    global _threads_maker, _processes_maker, _threads, _processes, _coming
    make_threads = None if threads is None else _maker(threads, _make_threads, "threads")
    make_processes = None if processes is None else _maker(processes, _make_processes, "processes")
    # A pool that is no longer referred to closes by itself when its last caller has let it go.
    with _lock:
        if make_threads is not None:
            _threads_maker, _threads = make_threads, None
        if make_processes is not None:
            _processes_maker, _processes, _coming = make_processes, None, None


def _maker(given: int | Callable[[], T], make: Callable[[int], T], name: str) -> Callable[[], T]:
    if isinstance(given, int) and not isinstance(given, bool):
        if given < 1:
            raise ValueError(f"{name} is {given}; it must be 1 or more")
        return functools.partial(make, given)
    if callable(given):
        return given
    raise TypeError(
        f"{name} is {type(given).__name__}; it must be a number of workers, or a function that makes the pool, such as "
        f"`lambda: offloop.{'Thread' if name == 'threads' else 'Process'}PoolExecutor(4)`"
    )


def warm_up(workers: int | None = None) -> WarmUp:
    """Makes the shared pools, and starts `workers` processes (None: all), so that the first calls need not wait.

    Does not block. `await` the result on an event loop, or call its `wait()`, which blocks. Both raise
    `WorkerStartError` if no worker can be started.
    """
    threads()
    return WarmUp(lambda: cpu_pool_ready(workers))


def cpu_pool_ready(workers: int | None) -> None:
    """Starts workers of the shared process pool. Blocks until they run."""
    processes()._warm_up(workers)


def take() -> list[Pool]:
    """Returns the shared pools that exist, for a caller that shuts them down. The next call makes new ones.

    Blocks while one is being made, so that the calls that wait for it belong to a pool as well.
    """
    global _threads, _processes
    if (coming := _coming) is not None:
        with contextlib.suppress(Exception):  # its callers get the reason
            coming.wait()
    with _lock:
        taken: list[Pool] = [pool for pool in (_threads, _processes) if pool is not None]
        _threads = _processes = None
    return taken


def _reset_in_child() -> None:
    global _lock, _threads, _processes, _coming
    _lock = threading.Lock()
    _threads = _processes = _coming = None


# A child made by fork() has none of its parent's threads and workers, so it makes pools of its own.
os.register_at_fork(after_in_child=_reset_in_child)


def install(pool: ThreadPoolExecutor | None = None) -> None:
    """Makes `pool`, or a new thread pool, the running loop's default executor.

    `loop.run_in_executor(None, ...)` and `asyncio.to_thread` use it from then on. As with every default executor, the
    loop shuts it down when it ends.
    """
    if pool is None:
        pool = ThreadPoolExecutor(thread_name_prefix="asyncio", activity="waits")
    asyncio.get_running_loop().set_default_executor(pool)


@overload
def run(fn: Callable[P, Never], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[Any]: ...
@overload
def run(
    fn: Callable[P, AsyncResult], /, *args: P.args, **kwargs: P.kwargs
) -> AsyncFunctionRefused: ...
@overload
def run(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[R]: ...
def run(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Runs a call that waits (for a file, a driver, a lock) on one of the shared threads, at most 512; await it.

    All arguments go to `fn`. Use `offloop.options` to limit the time. Does not block.
    """
    return threads()._run(fn, args, kwargs)


@overload
def run_cpu(fn: Callable[P, Never], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[Any]: ...
@overload
def run_cpu(
    fn: Callable[P, AsyncResult], /, *args: P.args, **kwargs: P.kwargs
) -> AsyncFunctionRefused: ...
@overload
def run_cpu(fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[R]: ...
def run_cpu(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Runs a call that computes in the shared process pool, which has as many workers as cores; await it.

    All arguments go to `fn`. Use `offloop.options` to limit the time. Does not block, except while it pickles the call.
    """
    return cpu_pool()._run(fn, args, kwargs)


def options(
    *,
    timeout: float | None = None,
    queue_timeout: float | None = None,
    priority: int = 0,
    name: str | None = None,
    request: str | None = None,
    retries: int = 0,
) -> Options:
    """Returns options for calls in the shared pools: `await offloop.options(timeout=5).run(fn, ...)`.

    timeout: seconds for which a call may run. After that it ends with `RunTimeout`, a `TimeoutError`: it is killed in a
    process, and in a thread `offloop.is_cancelled()` turns true.

    queue_timeout: seconds for which it may wait for a worker. After that it ends with `QueueTimeout`, a `TimeoutError`,
    and never runs.

    priority: calls with a higher one, from -128 to 127, run first.

    name: the name of the call in errors, in place of its function's.

    request: the id of the request that the call works for, in place of `offloop.request_id`; up to 200 characters.

    retries: the number of further workers that a call of `run_cpu` is given to when the one that runs it dies. Only for
    functions that may run more than once.

    Raises ValueError for a value that is out of range. The result is immutable and can be kept and used again.
    """
    return Options(
        CallOptions(
            timeout=timeout,
            queue_timeout=queue_timeout,
            priority=priority,
            name=name,
            request=request,
            retries=retries,
        )
    )


@final
class Options:
    """Options for calls in the shared pools, made by `offloop.options(...)`. Immutable."""

    def __init__(self, options: CallOptions) -> None:
        self._options = options

    @overload
    def run(
        self, fn: Callable[P, Never], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobFuture[Any]: ...
    @overload
    def run(
        self, fn: Callable[P, AsyncResult], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncFunctionRefused: ...
    @overload
    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[R]: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Runs a call that waits on one of the shared threads, as `offloop.run` does, with these options."""
        return threads()._run(fn, args, kwargs, self._options)

    @overload
    def run_cpu(
        self, fn: Callable[P, Never], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobFuture[Any]: ...
    @overload
    def run_cpu(
        self, fn: Callable[P, AsyncResult], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncFunctionRefused: ...
    @overload
    def run_cpu(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[R]: ...
    def run_cpu(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Runs a call that computes in the shared process pool, as `offloop.run_cpu` does, with these options."""
        return cpu_pool()._run(fn, args, kwargs, self._options)

    def __eq__(self, other: object) -> bool:
        return self._options == other._options if isinstance(other, Options) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._options)

    def __repr__(self) -> str:
        return f"offloop.options({self._options})"
