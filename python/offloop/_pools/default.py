"""The pools that the whole program shares, made when they are first needed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .loop import JobFuture
from .threads import ThreadPoolExecutor

if TYPE_CHECKING:
    from .processes import ProcessPoolExecutor

__all__ = ["install", "run", "run_cpu"]

R = TypeVar("R")

MAX_THREADS = 512
"""The number of calls that may wait at the same time."""

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

            _processes = ProcessPoolExecutor(name="offloop")
        return _processes


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


def run(
    fn: Callable[..., R],
    /,
    *args: Any,
    timeout: float | None = None,
    queue_timeout: float | None = None,
    priority: int = 0,
    **kwargs: Any,
) -> JobFuture[R]:
    """Runs a call that waits (for a file, a driver, a lock) on one of the shared threads, at most 512; await it.

    See `ThreadPoolExecutor.run` for the keywords. Does not block.
    """
    return threads().run(
        fn, *args, timeout=timeout, queue_timeout=queue_timeout, priority=priority, **kwargs
    )


def run_cpu(
    fn: Callable[..., R],
    /,
    *args: Any,
    timeout: float | None = None,
    queue_timeout: float | None = None,
    priority: int = 0,
    **kwargs: Any,
) -> JobFuture[R]:
    """Runs a call that computes in the shared process pool, which has as many workers as cores; await it.

    See `ProcessPoolExecutor.run` for the keywords. Does not block, except while it pickles the call.
    """
    return processes().run(
        fn, *args, timeout=timeout, queue_timeout=queue_timeout, priority=priority, **kwargs
    )
