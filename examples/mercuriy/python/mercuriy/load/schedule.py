"""An open schedule: each request is sent when it is due, whether or not those before have been answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

DRAIN = 30.0
"""The seconds for which answers are waited for after the last request. Those without one have failed."""


class Sample(NamedTuple):
    """A request of the schedule. Times are in seconds."""

    due: float
    """When it was due, since the begin of the schedule."""
    latency: float
    """The time from then until its answer had come, or its end without one."""
    outcome: str
    """The status of the answer, or the kind of its failure."""
    sent_late: float
    """The lateness with which it was sent: the fault of the generator, not of the service."""

    @property
    def is_good(self) -> bool:
        return self.outcome in ("200", "202")


async def run(rate: float, begin: float, seconds: float, send: Callable[[], Awaitable[int]]) -> list[Sample]:
    """Sends `rate` requests a second from `begin`, a time of time.monotonic(), on. Returns what became of them."""
    samples: list[Sample] = []
    sending: set[asyncio.Task[None]] = set()
    if rate <= 0:
        return samples

    async def one(due: float) -> None:
        late = max(0.0, time.monotonic() - due)
        outcome = "unanswered"
        try:
            outcome = str(await send())
        except OSError:
            outcome = "disconnected"
        finally:
            samples.append(Sample(due - begin, time.monotonic() - due, outcome, late))

    # In the middle of its period, so that not all kinds of requests begin at the same moment.
    for number in range(int(rate * seconds)):
        due = begin + (number + 0.5) / rate
        if (ahead := due - time.monotonic()) > 0:
            await asyncio.sleep(ahead)
        task = asyncio.create_task(one(due))
        sending.add(task)
        task.add_done_callback(sending.discard)
    if sending:
        _, unanswered = await asyncio.wait(sending, timeout=DRAIN)
        for task in unanswered:
            task.cancel()
        await asyncio.gather(*unanswered, return_exceptions=True)
    return samples
