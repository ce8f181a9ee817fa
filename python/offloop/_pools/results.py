"""The results of a map."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Generic, Self, TypeVar

from .outcomes import CONTROL_FLOW, as_error

__all__ = ["MapStream"]

R = TypeVar("R")


class MapStream(Generic[R]):
    """The results of a `map`: an iterator, for loops with and without `async`."""

    def __init__(
        self,
        calls: Iterator[Future[list[R]]],
        buffersize: int | None,
        ordered: bool,
        timeout: float | None,
        progress: Callable[[int], object] | None,
    ) -> None:
        self._calls = calls
        """Submits the next call at each step."""
        self._ordered = ordered
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._progress = progress
        self._values: list[R] = []
        """The results of one call that were not returned yet, the last first."""
        self._under_way: dict[Future[list[R]], None] = {}
        """The calls whose results have not been taken, in their order."""
        self._completed: deque[Future[list[R]]] = deque()
        """Of these, the calls that have ended; empty if the results come in order."""
        self._wake: Callable[[], object] = int
        """Wakes the thread or loop that waits for one of them."""
        self._submit(buffersize)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R:
        while not self._values:
            if not self._under_way:
                raise StopIteration
            try:
                self._take(self._wait())
            except BaseException:
                self.close()
                raise
        return self._values.pop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        while not self._values:
            if not self._under_way:
                raise StopAsyncIteration
            try:
                self._take(await self._wait_on_loop())
            except BaseException:
                self.close()
                raise
        return self._values.pop()

    def close(self) -> None:
        """Cancels the calls whose results have not been read. Does not block."""
        self._calls = iter(())
        self._values.clear()
        while self._under_way:
            self._under_way.popitem()[0].cancel()

    def _submit(self, count: int | None) -> None:
        """Submits `count` more calls; all if that is None."""
        for call in itertools.islice(self._calls, count):
            self._under_way[call] = None
            if not self._ordered:
                call.add_done_callback(self._on_end)

    def _on_end(self, call: Future[list[R]]) -> None:
        self._completed.append(call)
        self._wake()

    def _take(self, call: Future[list[R]]) -> None:
        """Takes the results of a call that has ended."""
        del self._under_way[call]
        try:
            values = call.result()
            self._submit(1)
            count = len(values)
            values.reverse()
            self._values = values
            if self._progress is not None:
                self._progress(count)
        except CONTROL_FLOW as error:
            raise as_error(error) from error
        finally:
            # The traceback of the call's exception holds this frame, which must not hold the call.
            del call

    def _left(self) -> float | None:
        """Returns the seconds that are left of the timeout."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def _wait(self) -> Future[list[R]]:
        """Returns the next call that has ended. Blocks."""
        if self._ordered:
            first = next(iter(self._under_way))
            first.exception(self._left())
            return first
        changed = threading.Condition()

        def wake() -> None:
            with changed:
                changed.notify()

        self._wake = wake
        with changed:
            if not changed.wait_for(lambda: self._completed, self._left()):
                raise FutureTimeout
        return self._completed.popleft()

    async def _wait_on_loop(self) -> Future[list[R]]:
        """Returns the next call that has ended, without blocking the loop."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake(_: object = None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing waits
                loop.call_soon_threadsafe(changed.set)

        if self._ordered:
            # It is not made a future of the loop, which refuses some exceptions that a call may raise.
            first = next(iter(self._under_way))
            if not first.done():
                first.add_done_callback(wake)
                await self._until(changed)
            return first
        self._wake = wake
        while not self._completed:
            await self._until(changed)
            changed.clear()
        return self._completed.popleft()

    async def _until(self, changed: asyncio.Event) -> None:
        """Waits for an event, until the timeout."""
        try:
            await asyncio.wait_for(changed.wait(), self._left())
        except asyncio.TimeoutError:
            raise FutureTimeout from None
