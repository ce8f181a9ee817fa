"""Runs blocking and CPU-bound work off the event loop.

    import offloop

    with offloop.ProcessPoolExecutor() as pool:
        await loop.run_in_executor(pool, cpu_bound)      # as with concurrent.futures
        await pool.run(cpu_bound, timeout=5)             # the fast, richer way

The two executors are drop-ins for those of `concurrent.futures`. What they add: a crash costs one job and not the
pool, jobs can be cancelled and limited, queues are bounded, large buffers travel without being copied.

(To pytest, which finds a plugin here: PYTEST_DONT_REWRITE.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._auto.auto import Placement as Placement
    from ._auto.auto import auto as auto
    from ._pools.default import install as install
    from ._pools.default import run as run
    from ._pools.default import run_cpu as run_cpu
    from ._errors import Broken as Broken
    from ._errors import Closed as Closed
    from ._errors import CouldNotStart as CouldNotStart
    from ._errors import Error as Error
    from ._errors import QueueFull as QueueFull
    from ._errors import QueueTimeout as QueueTimeout
    from ._errors import RunTimeout as RunTimeout
    from ._errors import Shed as Shed
    from ._errors import WorkerDied as WorkerDied
    from ._pools.executor import Results as Results
    from ._pools.futures import Future as Future
    from ._jobs import check as check
    from ._jobs import discard_worker_state as discard_worker_state
    from ._jobs import is_cancelled as is_cancelled
    from ._jobs import on_cancel as on_cancel
    from ._jobs import worker_state as worker_state
    from ._pools.loop import JobFuture as JobFuture
    from ._offloop import Advice as Advice
    from ._offloop import Histogram as Histogram
    from ._offloop import Metrics as Metrics
    from ._offloop import metrics as metrics
    from ._offloop import prometheus as prometheus
    from ._pools.processes import ProcessPoolExecutor as ProcessPoolExecutor
    from ._worker.remote_errors import RemoteError as RemoteError
    from ._pools.stream import Stream as Stream
    from ._pools.threads import ThreadPoolExecutor as ThreadPoolExecutor
    from ._watch.report import Stall as Stall
    from ._watch.report import StallSummary as StallSummary
    from ._watch.watch import Watch as Watch
    from ._watch.watch import watch as watch

# Where each name is. They are imported when they are first used: workers need only a few of them, and start sooner.
_PLACES = {
    "Advice": "_offloop",
    "Broken": "_errors",
    "Closed": "_errors",
    "CouldNotStart": "_errors",
    "Error": "_errors",
    "Future": "_pools.futures",
    "Histogram": "_offloop",
    "JobFuture": "_pools.loop",
    "Metrics": "_offloop",
    "Placement": "_auto.auto",
    "ProcessPoolExecutor": "_pools.processes",
    "QueueFull": "_errors",
    "QueueTimeout": "_errors",
    "RemoteError": "_worker.remote_errors",
    "Results": "_pools.executor",
    "RunTimeout": "_errors",
    "Shed": "_errors",
    "Stall": "_watch.report",
    "StallSummary": "_watch.report",
    "Stream": "_pools.stream",
    "ThreadPoolExecutor": "_pools.threads",
    "Watch": "_watch.watch",
    "WorkerDied": "_errors",
    "auto": "_auto.auto",
    "check": "_jobs",
    "discard_worker_state": "_jobs",
    "install": "_pools.default",
    "is_cancelled": "_jobs",
    "metrics": "_offloop",
    "on_cancel": "_jobs",
    "prometheus": "_offloop",
    "run": "_pools.default",
    "run_cpu": "_pools.default",
    "watch": "_watch.watch",
    "worker_state": "_jobs",
}

__all__ = sorted(_PLACES)  # pyright: ignore[reportUnsupportedDunderAll]


# A type checker that saw it would take any name for one of ours.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        place = _PLACES.get(name)
        if place is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{place}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
