"""What a generator in a worker yields, read here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._errors import CancelledError

if TYPE_CHECKING:
    from typing_extensions import Self

R = TypeVar("R")


class Stream(Generic[R]):
    """The items of a generator that runs in a worker process: an iterator, for loops with and without `async`.

    So many items as its `buffersize` says wait here to be read; then the generator waits. An exception of the
    generator is raised after its items. When the loop over it ends early, or `close()` is called, the generator's
    process is killed, and its worker replaced.
    """

    def __init__(self, translate: Callable[[BaseException], BaseException]) -> None:
        self._end = _End(translate)
        self._job: Any = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R:
        while True:
            self._end.news.clear()
            has_ended = self._end.has_come
            item = self._next_item()
            if item is not None:
                return item[0]
            if has_ended:
                self._end.reveal()
                raise StopIteration
            self._end.news.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        loop = asyncio.get_running_loop()
        while True:
            changed = asyncio.Event()
            self._end.wake = lambda: loop.call_soon_threadsafe(changed.set)
            has_ended = self._end.has_come
            item = self._next_item()
            if item is not None:
                return item[0]
            if has_ended:
                self._end.reveal()
                raise StopAsyncIteration
            await changed.wait()

    def _next_item(self) -> tuple[R] | None:
        item: tuple[R] | None = None if self._job is None else self._job.next_item()
        return item

    def close(self) -> None:
        """Ends the generator, unless it has ended. Does not block."""
        self._end.has_come = True
        if self._job is not None:
            self._job.cancel()
            self._job = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class _End:
    """Is told of the items and of the end. The job knows it and not the stream, so that one can be forgotten."""

    def __init__(self, translate: Callable[[BaseException], BaseException]) -> None:
        self._translate = translate
        self._error: BaseException | None = None
        self.has_come = False
        self.news = threading.Event()
        self.wake: Callable[[], object] = int

    def reveal(self) -> None:
        """Raises the generator's exception, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _wake(self) -> None:
        self.news.set()
        try:
            self.wake()
        except RuntimeError:
            # The loop that waited is closed.
            self.wake = int

    def _arrive(self, _: object) -> None:
        self.has_come = True
        self._wake()

    def _fail(self, error: BaseException) -> None:
        self._error = self._translate(error)
        if isinstance(self._error, CancelledError):
            self._error = CancelledError("the pool has cancelled the generator")
        self.has_come = True
        self._wake()
