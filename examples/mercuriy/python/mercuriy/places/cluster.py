"""Blocking work in offloop's pools, but for the walks of documents: those go to the workers of a cluster, which may be on
other machines. So a document travels, and what comes back is plain data.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

import offloop

from .. import elsewhere
from ..body import Document
from ..walk import BadDocument, Result
from .pools import DRAIN, QUEUE, WaitingPools

R = TypeVar("R")

NAME = "mercuriy"
"""The queue of the cluster, and the executor's name in the metrics."""


class ClusterPlace(WaitingPools):
    """Pools of threads for what waits, and an executor on a cluster for the walks."""

    name = "cluster"

    def __init__(self, cores: int, url: str | None) -> None:
        super().__init__()
        self._cores = cores
        self._url = url
        self._cluster: offloop.ClusterExecutor | None = None

    async def warm_up(self) -> None:
        # A server and workers of its own take some time to start.
        self._cluster = await asyncio.to_thread(self._open)

    def _open(self) -> offloop.ClusterExecutor:
        if self._url is not None:
            return offloop.ClusterExecutor(self._url, queue=NAME, on_full="reject", name=NAME)
        return offloop.ClusterExecutor.embedded(
            workers=self._cores,
            preload=["mercuriy.elsewhere"],
            queue_capacity=QUEUE,
            on_full="reject",
            name=NAME,
        )

    async def compute(self, fn: Callable[..., R], *args: Any) -> R:
        (document, find) = args
        walked: Any = await self._walk(document, find)
        return walked  # type: ignore[no-any-return]

    async def stream(self, fn: Callable[..., Iterable[R]], *args: Any) -> AsyncIterator[R]:
        # There is no way yet for items to come before the call has ended.
        (document, find) = args
        walked: Any = await self._walk(document, find)
        yield walked

    async def _walk(self, document: Document, find: str | None) -> Result:
        """Walks a document, the only work of the service that needs a core."""
        assert self._cluster is not None, "a place is warmed up before it is used"
        data = await asyncio.to_thread(_read, document)
        # A walk can be done again if its worker is lost.
        text = await self._cluster.options(retries=1).run(elsewhere.walk_document, data, find)
        answer = json.loads(text)
        if "fault" in answer:
            raise BadDocument(*answer["fault"])
        return Result(*answer["result"])

    async def aclose(self) -> None:
        if self._cluster is not None:
            await self._cluster.aclose(drain=DRAIN)
        await super().aclose()


def _read(document: Document) -> bytes:
    with document.opened() as data:
        return bytes(data)
