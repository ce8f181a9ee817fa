"""The pools that the whole program shares, made when they are first needed."""
# pyright: reportPrivateUsage=false
# mypy: disable-error-code="overload-overlap"

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar, final, overload

from .._calls import AsyncFunctionRefused, AsyncResult
from .._offloop import CallOptions
from .executor import Pool
from .loop import JobFuture
from .threads import ThreadPoolExecutor

if TYPE_CHECKING:
    from .processes import ProcessPoolExecutor

__all__ = ["Options", "install", "options", "run", "run_cpu"]

P = ParamSpec("P")
R = TypeVar("R")

MAX_THREADS = 512
"""The number of calls that may wait at the same time."""

IDLE_TIMEOUT = 60.0
"""The seconds without a job after which a worker of the shared process pool leaves. It has no initializer whose work would
be lost."""

_lock = threading.Lock()
_threads: ThreadPoolExecutor | None = None
_processes: ProcessPoolExecutor | None = None


def threads() -> ThreadPoolExecutor:
    """Returns the shared thread pool, for calls that wait."""
    global _threads
    with _lock:
        if _threads is None:
            _threads = ThreadPoolExecutor(
                MAX_THREADS, thread_name_prefix="offloop", activity="waits"
            )
        return _threads


def processes() -> ProcessPoolExecutor:
    """Returns the shared process pool, for calls that compute."""
    global _processes
    with _lock:
        if _processes is None:
            from .processes import ProcessPoolExecutor

            _processes = ProcessPoolExecutor(name="offloop", idle_timeout=IDLE_TIMEOUT)
        return _processes


def take() -> list[Pool]:
    """Returns the shared pools that exist, for a caller that shuts them down. The next call makes new ones."""
    global _threads, _processes
    with _lock:
        taken: list[Pool] = [pool for pool in (_threads, _processes) if pool is not None]
        _threads = _processes = None
    return taken


def _reset_in_child() -> None:
    global _lock, _threads, _processes
    _lock = threading.Lock()
    _threads = _processes = None


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
    return processes()._run(fn, args, kwargs)


def options(
    *,
    timeout: float | None = None,
    queue_timeout: float | None = None,
    priority: int = 0,
    name: str | None = None,
    retries: int = 0,
) -> Options:
    """Returns options for calls in the shared pools: `await offloop.options(timeout=5).run(fn, ...)`.

    timeout: seconds for which a call may run. After that it ends with `RunTimeout`, a `TimeoutError`: it is killed in a
    process, and in a thread `offloop.is_cancelled()` turns true.

    queue_timeout: seconds for which it may wait for a worker. After that it ends with `QueueTimeout`, a `TimeoutError`,
    and never runs.

    priority: calls with a higher one, from -128 to 127, run first.

    name: the name of the call in errors, in place of its function's.

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
        return processes()._run(fn, args, kwargs, self._options)

    def __eq__(self, other: object) -> bool:
        return self._options == other._options if isinstance(other, Options) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._options)

    def __repr__(self) -> str:
        return f"offloop.options({self._options})"
