"""The part of `DaskExecutor` within a Dask worker: each call runs in a process of an offloop pool."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import threading
from importlib import import_module
from pickle import PickleBuffer
from typing import Any

from .._engines.parcels import CallParcel, Reply, failed, raised
from .._errors import CancelledError, OffloopError
from .._offloop import CallOptions
from .._pools.executor import run_in_daemon_thread
from .._pools.pickled_call import PickledCall
from .._pools.process_future import ProcessFuture
from .._pools.processes import ProcessPoolExecutor
from .._process_errors import WorkerDied
from .distributed import distributed, plugins

_sync: Any = import_module("distributed.utils").sync


class Calls(plugins.WorkerPlugin):  # type: ignore[misc] # pyright: ignore[reportUntypedBaseClass]
    """The calls that a Dask worker runs for `DaskExecutor`s, and the pool that it has for them."""

    name = "offloop-calls-1"

    def __init__(self) -> None:
        self._worker: Any = None
        self._lock = threading.Lock()
        """Held while what follows is changed."""
        self._pool: ProcessPoolExecutor | None = None
        self._closed = False
        self._running: dict[str, Run] = {}

    def setup(self, worker: Any) -> None:
        """Begins. Called by the worker when it gets this plugin."""
        self._worker = worker

    async def teardown(self, worker: Any) -> None:
        """Kills all calls. Called by the worker when it closes."""
        with self._lock:
            self._closed = True
            pool = self._pool
        if pool is not None:
            await run_in_daemon_thread(pool._abort)

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Kills a call that the scheduler has withdrawn: cancelled, or its client is gone. Called by the worker for each
        task."""
        if finish != "released":  # the state that it has then is called "cancelled"
            return
        with self._lock:
            run = self._running.get(key)
        if run is not None:
            run.cancel()

    def perform(self, key: str, call: CallParcel, client: str, topic: str) -> Reply:
        """Runs a call, and returns its end as a reply. Blocks, on a thread of the worker's."""
        run = Run()
        with self._lock:
            self._running[key] = run
        try:
            # The transition may have come before.
            task = self._worker.state.tasks.get(key)
            if task is None or task.state == "cancelled":
                run.cancel()
            return self._perform(run, key, call, client, topic)
        except OffloopError as error:
            error.add_note(f"It was on the Dask worker {self._worker.address}.")
            return failed(error)
        except CancelledError as error:
            return failed(CancelledError(str(error)))
        except BaseException as error:
            # The call could not be unpickled.
            return raised(error)
        finally:
            with self._lock:
                del self._running[key]

    def _perform(self, run: Run, key: str, call: CallParcel, client: str, topic: str) -> Reply:
        terms = call.terms
        options = CallOptions(timeout=terms.timeout, name=terms.name, request=terms.request)
        buffers = [PickleBuffer(buffer) for buffer in call.buffers]
        died: WorkerDied | None = None
        while True:
            verdict = self._claim(key, terms.starts, client, topic)
            if verdict == "used" and died is not None:
                raise died
            if verdict == "used":
                return failed(lost(terms.name))
            if verdict == "withdrawn":
                raise CancelledError(f"{terms.name} was withdrawn before it began")
            pool = self._open_pool()
            future: ProcessFuture[Reply] = ProcessFuture(pool._crash_policy)
            pickled = PickledCall(terms.name, call.body, buffers)
            future._job = pool._send(future, None, pickled, options)
            run.follow(future)
            try:
                return future.result()
            except WorkerDied as error:
                died = error

    def _claim(self, key: str, starts: int, client: str, topic: str) -> str:
        verdict: str = _sync(
            self._worker.loop,
            self._worker.scheduler.offloop_claim,
            key=key,
            worker=self._worker.address,
            starts=starts,
            client=client,
            topic=topic,
        )
        return verdict

    def _open_pool(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._closed:
                raise CancelledError(f"the Dask worker {self._worker.address} is closing")
            if self._pool is None:
                # As many as the worker has threads: Dask gives it no more calls at a time. It decides on niceness itself.
                count = self._worker.state.nthreads
                self._pool = ProcessPoolExecutor(count, name="dask", nice=0, idle_timeout=300)
            return self._pool


class Run:
    """A call that a Dask worker runs, as far as it can be cancelled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._future: ProcessFuture[Reply] | None = None

    def cancel(self) -> None:
        """Kills the call, or its next attempt. Does not block."""
        with self._lock:
            self._is_cancelled = True
            future = self._future
        if future is not None:
            future.cancel()

    def follow(self, future: ProcessFuture[Reply]) -> None:
        """Sets the future of the present attempt."""
        with self._lock:
            self._future = future
            is_cancelled = self._is_cancelled
        if is_cancelled:
            future.cancel()


def lost(name: str) -> WorkerDied:
    """Returns the error of a call whose Dask worker was lost, and that must not be started again."""
    return WorkerDied(
        f"the Dask worker that ran `{name}` was lost, with the result if there was one. The call is not started again; give it "
        f"`retries` if it may be",
        task=name,
    )


def run(call: CallParcel, key: str, client: str, topic: str) -> Reply:
    """Runs a call in a Dask worker. This is what Dask takes for the function."""
    worker = distributed.get_worker()
    if Calls.name not in worker.plugins:
        _sync(worker.loop, _add_plugin, worker)
    calls: Calls = worker.plugins[Calls.name]
    return calls.perform(key, call, client, topic)


async def _add_plugin(worker: Any) -> None:
    # Another call may have added it meanwhile.
    if Calls.name not in worker.plugins:
        await worker.plugin_add(plugin=Calls(), name=Calls.name)
