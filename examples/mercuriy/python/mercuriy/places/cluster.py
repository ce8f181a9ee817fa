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
from ..walk import BadDocument, Progress, Result
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
        # A walk is the only work of the service that needs a core, and workers have it as a task.
        document, find = args
        # It can be done again if its worker is lost.
        cluster = self._opened().options(retries=1)
        text = await cluster.run(elsewhere.walk_document, await asyncio.to_thread(_read, document), find)
        walked: Any = _step(text)
        return walked  # type: ignore[no-any-return]

    async def stream(self, fn: Callable[..., Iterable[R]], *args: Any) -> AsyncIterator[R]:
        document, find = args
        data = await asyncio.to_thread(_read, document)
        async with self._opened().stream(elsewhere.walk_document_in_steps, data, find) as texts:
            async for text in texts:
                step: Any = _step(text)
                yield step

    def _opened(self) -> offloop.ClusterExecutor:
        assert self._cluster is not None, "a place is warmed up before it is used"
        return self._cluster

    async def aclose(self) -> None:
        if self._cluster is not None:
            await self._cluster.aclose(drain=DRAIN)
        await super().aclose()


def _read(document: Document) -> bytes:
    with document.opened() as data:
        return bytes(data)


def _step(text: str) -> Progress | Result:
    """Returns the step of a walk that a task has sent. Raises BadDocument."""
    ((kind, fields),) = json.loads(text).items()
    if kind == "fault":
        raise BadDocument(*fields)
    return Progress(*fields) if kind == "progress" else Result(*fields)
