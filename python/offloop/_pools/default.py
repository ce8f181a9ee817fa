"""The pools that need not be made: shared by the whole program."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .._pools.loop import JobFuture
from .._pools.threads import ThreadPoolExecutor

if TYPE_CHECKING:
    from .._pools.processes import ProcessPoolExecutor

R = TypeVar("R")

MAX_THREADS = 512
"""As many calls as may wait side by side."""

_lock = threading.Lock()
_threads: ThreadPoolExecutor | None = None
_processes: ProcessPoolExecutor | None = None


def threads() -> ThreadPoolExecutor:
    """The shared thread pool, for calls that wait; made when it is first needed."""
    global _threads
    with _lock:
        if _threads is None:
            _threads = ThreadPoolExecutor(
                MAX_THREADS, thread_name_prefix="offloop", purpose="waiting"
            )
        return _threads


def processes() -> ProcessPoolExecutor:
    """The shared process pool, for calls that compute; made when it is first needed."""
    global _processes
    with _lock:
        if _processes is None:
            from .._pools.processes import ProcessPoolExecutor

            _processes = ProcessPoolExecutor(name="offloop")
        return _processes


def _forget() -> None:
    global _lock, _threads, _processes
    _lock = threading.Lock()
    _threads = _processes = None


# A child's threads and workers are its own.
os.register_at_fork(after_in_child=_forget)


def install(pool: ThreadPoolExecutor | None = None) -> None:
    """Makes `pool`, or a new thread pool, the running loop's default executor: what
    `loop.run_in_executor(None, ...)` and `asyncio.to_thread` use. As always, the loop shuts it down when it ends.
    """
    if pool is None:
        pool = ThreadPoolExecutor(thread_name_prefix="asyncio", purpose="waiting")
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
    """Runs a call that waits (for a file, a driver, a lock) on the shared threads, up to 512 of them; await it.

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
    """Runs a call that computes in the shared process pool, with as many workers as there are cores; await it.

    See `ProcessPoolExecutor.run` for the keywords. Does not block, but to pickle the call.
    """
    return processes().run(
        fn, *args, timeout=timeout, queue_timeout=queue_timeout, priority=priority, **kwargs
    )
