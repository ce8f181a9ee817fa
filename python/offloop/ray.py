"""An executor on Ray.

    import ray
    from offloop.ray import RayExecutor

    ray.init("auto")
    with RayExecutor(num_cpus=1) as pool:
        print(pool.submit(pow, 2, 10).result())

Needs `pip install offloop[ray]`, here and on the nodes.
"""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import atexit
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from typing import Any

from ._engines.executor import EngineExecutor
from ._engines.job import EngineJob
from ._engines.parcels import CallParcel, Reply, load, raised
from ._errors import CancelledError, PoolClosed, QueueTimeout, RunTimeout
from ._process_errors import WorkerDied
from ._requests import request_id

__all__ = ["RayExecutor"]

try:
    ray: Any = import_module("ray")
except ImportError as error:
    raise ImportError(
        f"offloop.ray needs Ray: pip install 'offloop[ray]' ({error})", name=error.name
    ) from error

LOAD_TIMEOUT = 60.0
"""The seconds that a call with a `timeout` may take before its function is called, as in a process pool."""

CANCEL_AGAIN = 1.0
"""The seconds after which a task that has not ended is cancelled once more."""

BEGUN = 1
"""The first item that a call yields."""
LOADED = 2
"""The second one, if it has a `timeout`, which counts from here."""

_FORBIDDEN = {"max_retries", "name", "num_returns", "retry_exceptions"}
"""Ray's options that would break a promise of the executor, or that calls have themselves."""

_errors: Any = import_module("ray.exceptions")
_DEATHS: tuple[type[BaseException], ...] = tuple(
    getattr(_errors, name)
    for name in ("WorkerCrashedError", "OutOfMemoryError", "NodeDiedError", "LocalRayletDiedError", "ObjectLostError")
)
"""Ray's errors of a call whose worker or node was lost, or of a result that was lost with its node."""


class RayExecutor(EngineExecutor):
    """Runs calls as tasks of Ray: a `concurrent.futures` executor with the interface of offloop's pools.

    Each call is a task that Ray starts once, or `1 + retries` times at most if its worker dies. A cancel and a call's
    `timeout` kill the worker process that runs it. Exceptions arrive by their own types, and a crash as `WorkerDied`.

    - `copy`: whether arrays are copied out of Ray's memory, both those of arguments and those of results. Without it they
      are read-only.
    - `options`: those of Ray's tasks for all calls: `num_cpus`, `num_gpus`, `memory`, `resources`, `runtime_env`,
      `scheduling_strategy` and others.
    - `exit_timeout`: the seconds for which the interpreter's exit waits for accepted jobs; None: forever.

    The program connects to Ray itself, by `ray.init`: otherwise the constructor raises RuntimeError. offloop must be
    installed on the nodes. Ray has no priorities: `options(priority=...)` raises ValueError.
    """

    _runner = "Ray"
    _has_priorities = False

    def __init__(self, *, copy: bool = False, exit_timeout: float | None = 60.0, **options: Any) -> None:
        if unfit := _FORBIDDEN & options.keys():
            raise TypeError(
                f"RayExecutor takes no {', '.join(sorted(unfit))}: `options(retries=, name=)` are those of one call"
            )
        if not ray.is_initialized():
            raise RuntimeError(
                "this program is not connected to Ray: call ray.init() first. It is not done here, because Ray then "
                "listens on the network"
            )
        super().__init__(_loop.get(), exit_timeout)
        self._copy = copy
        self._driver: str = _driver_id()
        """This program's id within Ray. It has another one after a new `ray.init()`."""
        self._is_cut_off = False
        """True if Ray has lost the node of this program. Set by `_look`."""
        self._task: Any = ray.remote(perform)
        self._options = {**options, "num_returns": "streaming", "max_retries": 0}

    async def _carry(self, job: EngineJob, call: CallParcel, priority: int) -> None:
        timers: list[asyncio.TimerHandle] = []
        if (left := job.queue_time_left()) is not None:
            timers.append(self._loop.call_later(left, _end_queued, job))
        try:
            for starts_left in reversed(range(call.terms.starts)):
                if job.state == "ended":
                    return
                if (reason := self._lost()) is not None:
                    job.fail(PoolClosed(reason))
                    return
                try:
                    async for reply in self._items(job, call, timers):
                        job.receive(reply, self._copy)
                    return
                except _DEATHS as error:
                    if starts_left == 0:
                        job.fail(_died(job, error))
        except _errors.TaskCancelledError as error:
            # It has ended already if it was cancelled here.
            if job.state != "ended":
                job.fail(CancelledError(f"{job.name} was cancelled by others: {error}"))
        finally:
            job.handle = None
            for timer in timers:
                timer.cancel()

    async def _items(
        self, job: EngineJob, call: CallParcel, timers: list[asyncio.TimerHandle]
    ) -> AsyncIterator[Reply]:
        """Starts a task, and yields its reply."""
        job.handle = self._task.options(**self._options, name=job.name).remote(call, self._copy)
        async for reference in job.handle:
            item: Any = await reference
            if isinstance(item, Reply):
                yield item
                continue
            job.begin()
            while timers:
                timers.pop().cancel()
            if job.timeout is not None:
                limit = LOAD_TIMEOUT if item == BEGUN else job.timeout
                timers.append(self._loop.call_later(limit, _end_running, job, item))

    async def _drop(self, job: EngineJob) -> None:
        task = job.handle
        # Ray promises no more than an attempt, and may come too early for a task that is just about to begin.
        while task is not None and job.handle is task and self._lost() is None:
            ray.cancel(task, force=True)
            await asyncio.sleep(CANCEL_AGAIN)

    def _look(self) -> None:
        # Ray reports nothing to a program whose own node is lost. Without a connection it would start a cluster to be asked.
        if not ray.is_initialized():
            return
        node = ray.get_runtime_context().get_node_id()
        if any(found["NodeID"] == node and not found["Alive"] for found in ray.nodes()):
            self._is_cut_off = True

    def _lost(self) -> str | None:
        if self._is_cut_off:
            return "Ray's process on this machine is gone: call ray.shutdown() and ray.init(), and make another executor"
        if not ray.is_initialized() or _driver_id() != self._driver:
            return "Ray was shut down in this program"
        return None


def _end_queued(job: EngineJob) -> None:
    if job.state == "queued":
        job.abort(QueueTimeout(f"`{job.name}` waited for a worker of Ray for more than {job.queue_timeout} s"))


def _end_running(job: EngineJob, item: int) -> None:
    if item == BEGUN:
        text = f"its modules were still being imported after {LOAD_TIMEOUT} s"
    else:
        text = f"still running after its limit of {job.timeout} s"
    job.abort(RunTimeout(f"`{job.name}`: {text}; its worker process is killed"))


def _died(job: EngineJob, error: BaseException) -> WorkerDied:
    """Returns the error of a job whose worker has died."""
    out_of_memory = isinstance(error, _errors.OutOfMemoryError)
    died = WorkerDied(
        f"the worker of Ray that ran `{job.name}` died, or its node was lost, with the result if there was one: "
        f"{type(error).__name__}. Ray's log says more",
        task=job.name,
        out_of_memory=out_of_memory,
    )
    died.__cause__ = error
    return died


def _driver_id() -> str:
    found: str = ray.get_runtime_context().get_worker_id()
    return found


def perform(call: CallParcel, copy: bool) -> Iterator[int | Reply]:
    """Runs a call in a worker of Ray. This is what Ray takes for the function; it yields its beginning and its end."""
    yield BEGUN
    try:
        packed, args, kwargs = load(call, copy)
    except BaseException as error:
        yield raised(error)
        return
    if call.terms.timeout is not None:
        yield LOADED
    context = contextvars.copy_context()
    context.run(request_id.set, call.terms.request)
    yield context.run(packed, *args, **kwargs)


class _Loop:
    """The event loop on which the jobs of all executors are carried, on a thread of its own. Made at its first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        """Returns the loop."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._loop.run_forever, name="offloop-ray", daemon=True)
                thread.start()
                # Ray ends a program with status 1 that calls it after Ray's own end at the exit. That was registered earlier,
                # so it comes after this.
                atexit.register(_end, self._loop, thread)
            return self._loop


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Ends the thread of a loop at the exit, when the executors have finished their jobs."""
    loop.call_soon_threadsafe(loop.stop)
    thread.join(1.0)


_loop = _Loop()
