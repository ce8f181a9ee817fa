"""Blocking work in the standard processes. A call cannot be ended there either, one that dies takes the pool
with it, and a process for each call that waits is a lot.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from offloop import request_id

from .. import logs
from ..answers import WorkerLost
from . import Resource
from .kept import with_connection

R = TypeVar("R")

WAITING = 8
"""The number of processes for calls that wait, to all systems together."""


class ProcessesPlace:
    """One standard pool of processes for what waits, and one for what computes."""

    name = "processes"

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._waiting = _pool(WAITING)
        self._computing = _pool(cores)

    async def wait(self, resource: Resource, fn: Callable[..., R], *args: Any) -> R:
        pool = self._waiting
        try:
            return await _run(pool, with_connection, resource, fn, *args)
        except BrokenProcessPool as error:
            if pool is self._waiting:
                self._waiting = _pool(WAITING)
            raise WorkerLost from error

    async def compute(self, fn: Callable[..., R], *args: Any) -> R:
        pool = self._computing
        try:
            return await _run(pool, fn, *args)
        except BrokenProcessPool as error:
            if pool is self._computing:
                self._computing = _pool(self._cores)
            raise WorkerLost from error

    async def stream(self, fn: Callable[..., Iterable[R]], *args: Any) -> AsyncIterator[R]:
        # There is no way for items to come before the call has ended.
        for item in await self.compute(_all, fn, *args):
            yield item

    async def warm_up(self) -> None:
        await asyncio.gather(self.compute(int), _run(self._waiting, int))

    async def aclose(self) -> None:
        for pool in (self._computing, self._waiting):
            await asyncio.to_thread(pool.shutdown)


def _pool(workers: int) -> ProcessPoolExecutor:
    # A fork of this process would have its threads' locks, without the threads.
    context = multiprocessing.get_context("forkserver")
    return ProcessPoolExecutor(workers, context, initializer=logs.to_stderr)


def _run(pool: ProcessPoolExecutor, fn: Callable[..., R], *args: Any) -> asyncio.Future[R]:
    loop = asyncio.get_running_loop()
    return loop.run_in_executor(pool, _in_request, request_id.get(), fn, *args)


def _in_request(request: str | None, fn: Callable[..., R], *args: Any) -> R:
    """Calls `fn(*args)` for a request. Nothing else tells a standard worker which one."""
    request_id.set(request)
    return fn(*args)


def _all(fn: Callable[..., Iterable[R]], *args: Any) -> list[R]:
    return list(fn(*args))
