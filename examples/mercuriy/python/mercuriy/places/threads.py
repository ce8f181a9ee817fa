"""Blocking work in the standard threads. Calls that wait do no harm there; calls that compute still compete with
the loop for the interpreter. A call cannot be ended: when its client has gone, or its time is over, it goes on for
nobody.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from . import Resource
from .kept import with_connection

R = TypeVar("R")


class ThreadsPlace:
    """One standard pool of threads for each resource, and one for what computes."""

    name = "threads"

    def __init__(self, cores: int) -> None:
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self._computing = ThreadPoolExecutor(cores, "compute")

    async def wait(self, resource: Resource, fn: Callable[..., R], *args: Any) -> R:
        pool = self._pools.get(resource.name)
        if pool is None:
            pool = self._pools[resource.name] = ThreadPoolExecutor(resource.workers, resource.name)
        return await _run(pool, with_connection, resource, fn, *args)

    async def compute(self, fn: Callable[..., R], *args: Any) -> R:
        return await _run(self._computing, fn, *args)

    async def stream(self, fn: Callable[..., Iterable[R]], *args: Any) -> AsyncIterator[R]:
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[R] = asyncio.Queue()

        def send() -> None:
            for item in fn(*args):
                loop.call_soon_threadsafe(items.put_nowait, item)

        sending = asyncio.ensure_future(_run(self._computing, send))
        while not sending.done() or not items.empty():
            getting = asyncio.ensure_future(items.get())
            waited: set[asyncio.Future[Any]] = {getting, sending}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                yield getting.result()
            else:
                getting.cancel()
        await sending

    async def warm_up(self) -> None:
        pass

    async def aclose(self) -> None:
        for pool in (self._computing, *self._pools.values()):
            await asyncio.to_thread(pool.shutdown)


def _run(pool: ThreadPoolExecutor, fn: Callable[..., R], *args: Any) -> asyncio.Future[R]:
    # As asyncio.to_thread does, so that the log has the request's id.
    context = contextvars.copy_context()
    return asyncio.get_running_loop().run_in_executor(pool, context.run, fn, *args)
