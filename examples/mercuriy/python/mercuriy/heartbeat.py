"""A heartbeat that notices how late the event loop is."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import NoReturn

BEAT = 0.01
"""The seconds between two beats."""
WINDOW = 1.0
"""The seconds for which a lateness is remembered."""


class Heartbeat:
    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque()
        """The times of the beats of the last second, and how late each was."""

    async def beat(self) -> NoReturn:
        while True:
            due = time.perf_counter() + BEAT
            await asyncio.sleep(BEAT)
            now = time.perf_counter()
            self._late.append((now, max(0.0, now - due)))
            while now - self._late[0][0] > WINDOW:
                self._late.popleft()

    def worst(self) -> float:
        """Returns the greatest lateness of the last second, in seconds."""
        now = time.perf_counter()
        return max((late for at, late in self._late if now - at <= WINDOW), default=0.0)
