"""The executor on a Dask cluster."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Generator
from importlib import import_module
from typing import Any

from .._engines.executor import EngineExecutor
from .._engines.job import EngineJob
from .._engines.parcels import CallParcel
from .._errors import CancelledError, PoolClosed, QueueTimeout
from .calls import lost, run
from .claims import PREFIX, Claims
from .distributed import distributed

_FORBIDDEN = {"key", "pure", "retries", "priority", "actor", "actors"}
"""The options of `Client.submit` that would break a promise of the executor, or that calls have themselves."""

_KilledWorker: Any = import_module("distributed.scheduler").KilledWorker


_LARGE = 1 << 20
"""The size in bytes from which a call may be one that Dask warns of."""

_config: Any = import_module("dask").config
_threshold_lock = threading.Lock()
"""Held while the threshold is another one, so that two threads restore it in order."""


@contextlib.contextmanager
def _without_warning(call: CallParcel) -> Generator[None, None, None]:
    """Submits a large call without the warning that its data could be loaded within the cluster. They come from here."""
    if call.nbytes < _LARGE:
        yield
        return
    with _threshold_lock, _config.set({"distributed.admin.large-graph-warning-threshold": 1 << 60}):
        yield


class DaskExecutor(EngineExecutor):
    """Runs calls on a Dask cluster: a `concurrent.futures` executor with the interface of offloop's pools.

    Each call runs in a process of its own pool within a Dask worker, so it can be killed: by a cancel and by its
    `timeout`. A crash ends one call with `WorkerDied`, and no Dask worker. Equal calls are different calls. A call is
    started once, or `1 + retries` times at most, also when its Dask worker is lost.

    - `client`: the `distributed.Client`. It stays open at the executor's shutdown. It may be asynchronous; then calls end
      on its event loop, which must not be blocked.
    - `options`: those of `Client.submit` for all calls: `workers`, `allow_other_workers`, `resources`, `fifo_timeout`.
    - `exit_timeout`: the seconds for which the interpreter's exit waits for accepted jobs; None: forever.

    offloop must be installed on the scheduler and on the workers. The cluster can run code in this program, as always
    with Dask: whoever reaches the scheduler can.
    """

    _engine = "Dask"

    def __init__(self, client: Any, *, exit_timeout: float | None = 60.0, **options: Any) -> None:
        if not isinstance(client, distributed.Client):
            raise TypeError(f"client is a {type(client).__name__}; give a distributed.Client")
        if unfit := _FORBIDDEN & options.keys():
            raise TypeError(
                f"DaskExecutor takes no {', '.join(sorted(unfit))}: calls have keys of their own, and `options(retries=, "
                f"priority=)` are those of one call"
            )
        untyped: Any = client
        super().__init__(untyped.loop.asyncio_loop, exit_timeout)
        self._client = untyped
        self._options = options
        self._topic = f"offloop-{uuid.uuid4().hex}"
        """The topic under which the scheduler tells this executor of calls that begin."""
        self._submitted: dict[str, EngineJob] = {}
        """The jobs that Dask has, by their keys. Used on the loop only, as what follows."""
        self._prepared: tuple[Any, asyncio.Future[None]] | None = None
        """The connection whose scheduler was prepared, and the preparation."""

    async def _prepare(self) -> None:
        """Prepares the scheduler, once for each connection: another scheduler may have taken the place of the first."""
        connection = self._client.scheduler_comm
        if self._prepared is None or self._prepared[0] is not connection:
            self._prepared = connection, asyncio.ensure_future(self._register())
        await asyncio.shield(self._prepared[1])

    async def _register(self) -> None:
        try:
            await self._client.register_plugin(Claims())
            self._client.subscribe_topic(self._topic, self._on_begin)
        except BaseException:
            self._prepared = None  # the next call tries again
            raise

    def _on_begin(self, event: tuple[float, str]) -> None:
        job = self._submitted.get(event[1])
        if job is not None:
            job.begin()

    async def _carry(self, job: EngineJob, call: CallParcel, priority: int) -> None:
        timer: asyncio.TimerHandle | None = None
        if (left := job.queue_time_left()) is not None:
            timer = self._loop.call_later(left, lambda: asyncio.ensure_future(self._withdraw(job)))
        try:
            await self._prepare()
            if job.state == "ended":
                return
            key = f"{PREFIX}{job.name}-{uuid.uuid4().hex}"
            client = self._client
            self._submitted[key] = job
            with _without_warning(call):
                future = job.handle = client.submit(
                    run,
                    call,
                    key,
                    client.id,
                    self._topic,
                    key=key,
                    pure=False,
                    retries=0,
                    priority=priority,
                    **self._options,
                )
            reply = await client.gather(future, asynchronous=True)
        except _KilledWorker as error:
            died = lost(job.name)
            died.__cause__ = error
            job.fail(died)
        except CancelledError as error:
            # It has ended already if it was cancelled here.
            if job.state != "ended":
                job.fail(self._cancelled(job, error))
        else:
            job.receive(reply, copy=True)
        finally:
            if (future := job.handle) is not None:
                job.handle = None
                del self._submitted[future.key]
                future.release()
            if timer is not None:
                timer.cancel()

    def _cancelled(self, job: EngineJob, error: BaseException) -> BaseException:
        """Returns the error of a job that Dask has cancelled."""
        reason = self._lost()
        if reason is None and self._client.status != "running":
            reason = "the connection to the Dask scheduler is lost"
        if reason is None:
            return CancelledError(f"{job.name} was cancelled by another client: {error}")
        return PoolClosed(f"{reason}; `{job.name}` has no result, and may have run")

    async def _withdraw(self, job: EngineJob) -> None:
        """Ends a job whose `queue_timeout` is over, unless it has begun."""
        if job.state != "queued":
            return
        waits = True
        if (future := job.handle) is not None:
            with contextlib.suppress(OSError):  # the scheduler is gone, which ends the job
                waits = await self._client.scheduler.offloop_withdraw(key=future.key)
        if waits:
            job.abort(QueueTimeout(f"`{job.name}` waited for a Dask worker for more than {job.queue_timeout} s"))
        else:
            job.begin()

    async def _drop(self, job: EngineJob) -> None:
        if (future := job.handle) is not None:
            # The scheduler withdraws it from its worker, where `Calls` kills it.
            await self._client.cancel([future], asynchronous=True, force=True)

    def _lost(self) -> str | None:
        if self._client.status in ("closing", "closed") or self._loop.is_closed():
            return "the Dask client is closed"
        return None
