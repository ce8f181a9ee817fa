"""A heartbeat that notices how late its event loop is, shared by the examples."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import NamedTuple, TypeVar

R = TypeVar("R")

BEAT = 0.001
"""Seconds between two beats."""


class Measured(NamedTuple):
    """The time that a piece of work took, and the loop's worst lateness meanwhile, in seconds."""

    took: float
    late: float


class Heartbeat:
    """Beats every millisecond on the running loop and remembers the longest delay.

    Event loops count whole milliseconds, so a free one shows about one millisecond.
    """

    def __init__(self) -> None:
        self._worst = 0.0

    async def __aenter__(self) -> Heartbeat:
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._task.cancel()

    async def _beat(self) -> None:
        while True:
            due = time.perf_counter() + BEAT
            await asyncio.sleep(BEAT)
            self._worst = max(self._worst, time.perf_counter() - due)

    async def measure(self, work: Callable[[], Awaitable[R]]) -> tuple[R, Measured]:
        """Awaits the result of `work()`. Returns it, with the time it took and the loop's worst lateness meanwhile."""
        # Let a beat pass before and after: each delay is counted to the work that caused it.
        await asyncio.sleep(3 * BEAT)
        self._worst = 0.0
        began = time.perf_counter()
        result = await work()
        took = time.perf_counter() - began
        await asyncio.sleep(3 * BEAT)
        return result, Measured(took, self._worst)


def milliseconds(seconds: float) -> str:
    """Returns milliseconds with one decimal, for a column."""
    return f"{seconds * 1e3:.1f} ms"
