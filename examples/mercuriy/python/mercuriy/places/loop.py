"""Blocking work on the event loop itself: everything else waits for it. This is what the service is to be
mended of.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from . import Resource
from .kept import close_connections, with_connection

R = TypeVar("R")


class LoopPlace:
    """Calls everything right here."""

    name = "loop"

    async def wait(self, resource: Resource, fn: Callable[..., R], *args: Any) -> R:
        return with_connection(resource, fn, *args)

    async def compute(self, fn: Callable[..., R], *args: Any) -> R:
        return fn(*args)

    async def stream(self, fn: Callable[..., Iterable[R]], *args: Any) -> AsyncIterator[R]:
        for item in fn(*args):
            yield item
            await asyncio.sleep(0)

    async def warm_up(self) -> None:
        pass

    async def aclose(self) -> None:
        close_connections()
