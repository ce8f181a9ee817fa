"""Blocking work in offloop's pools: threads for what waits, processes for what computes. A call whose
client has gone or whose time is over ends, on the server, too. Queues are bounded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

import offloop

from . import Resource
from .setup import set_up_worker

R = TypeVar("R")

QUEUE = 256
"""The number of calls that may wait for one of a resource's connections."""
DRAIN = 2.0
"""The seconds for which the end of the service waits for jobs that nobody awaits."""


class WaitingPools:
    """A pool of threads for each resource, with a connection for each."""

    def __init__(self) -> None:
        self._pools: dict[str, offloop.ThreadPoolExecutor] = {}

    async def wait(self, resource: Resource, fn: Callable[..., R], *args: Any) -> R:
        pool = self._pools.get(resource.name)
        if pool is None:
            pool = self._pools[resource.name] = offloop.ThreadPoolExecutor(
                resource.workers,
                resource.name,
                worker_state=resource.open,
                close_worker_state=_close,
                idle_timeout=60,
                queue_capacity=QUEUE,
                on_full="reject",
                activity="waits",
            )
        return await pool.run(_with_connection, fn, *args)

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose(drain=DRAIN)


class OffloopPlace(WaitingPools):
    """Pools of threads for what waits, and a pool of processes for what computes."""

    name = "offloop"

    def __init__(self, cores: int, otlp: str | None) -> None:
        super().__init__()
        self._computing = offloop.ProcessPoolExecutor(
            cores,
            initializer=set_up_worker,
            initargs=(otlp,),
            preload=["mercuriy.walk", "mercuriy.places.setup"],
            min_workers=cores,
            queue_capacity=QUEUE,
            on_full="reject",
            max_rss=2 << 30,
            name="documents",
        )

    async def compute(self, fn: Callable[..., R], *args: Any) -> R:
        # A walk can be done again if its worker dies.
        return await self._computing.options(retries=1).run(fn, *args)

    async def stream(self, fn: Callable[..., Iterable[R]], *args: Any) -> AsyncIterator[R]:
        with self._computing.stream(fn, *args) as items:
            async for item in items:
                yield item

    async def warm_up(self) -> None:
        await self._computing.run(int)

    async def aclose(self) -> None:
        await self._computing.aclose(drain=DRAIN)
        await super().aclose()


def _with_connection(fn: Callable[..., R], *args: Any) -> R:
    """Calls `fn(connection, *args)`, with the worker's connection. If the job is cancelled, so is the call
    on the server.
    """
    connection = offloop.worker_state()
    if connection.is_broken:
        offloop.discard_worker_state()
        connection = offloop.worker_state()
    try:
        with offloop.on_cancel(connection.cancel, repeat=1):
            return fn(connection, *args)
    finally:
        if connection.is_broken:
            offloop.discard_worker_state()


def _close(connection: Any) -> None:
    connection.close()
