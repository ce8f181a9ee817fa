"""The items of a generator that runs in a worker, as the caller reads them."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

from .._errors import CancelledError
from .outcomes import Translator, as_error

__all__ = ["ItemStream"]

R = TypeVar("R")


class ItemStream(Generic[R]):
    """The items of a generator that runs in a worker process: an iterator, for loops with and without `async`.

    At most `buffersize` items wait here to be read; then the generator waits. An exception of the generator is raised
    after its items. When the loop over the stream ends early, or `close()` is called, the generator's process is
    killed, and its worker replaced.
    """

    def __init__(self, translator: Translator) -> None:
        self._receiver = _StreamReceiver(translator)
        self._job: Any = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R:
        while True:
            self._receiver.changed.clear()
            has_ended = self._receiver.has_ended
            item = self._next_item()
            if item is not None:
                return item[0]
            if has_ended:
                self._receiver.raise_error()
                raise StopIteration
            self._receiver.changed.wait()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        loop = asyncio.get_running_loop()
        while True:
            changed = asyncio.Event()
            self._receiver.wake = lambda: loop.call_soon_threadsafe(changed.set)
            has_ended = self._receiver.has_ended
            item = self._next_item()
            if item is not None:
                return item[0]
            if has_ended:
                self._receiver.raise_error()
                raise StopAsyncIteration
            await changed.wait()

    def _next_item(self) -> tuple[R] | None:
        if self._job is None:
            return None
        try:
            item: tuple[R] | None = self._job.next_item()
            return item
        except Exception as error:
            # The item cannot be unpickled. There is no way to go on behind it.
            self._receiver._raise(error)
            self.close()
            return None

    def close(self) -> None:
        """Ends the generator, unless it has ended. Does not block."""
        self._receiver.has_ended = True
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


class _StreamReceiver:
    """Learns of new items and of the generator's end.

    The job refers to this object and not to the stream, so that a stream that is no longer used is closed.
    """

    def __init__(self, translator: Translator) -> None:
        self._translator = translator
        self._error: BaseException | None = None
        self.has_ended = False
        """Whether the generator has ended, or the stream was closed."""
        self.changed = threading.Event()
        """Is set at each new item and at the end."""
        self.wake: Callable[[], object] = int
        """Wakes the loop that waits for one of these."""

    def raise_error(self) -> None:
        """Raises the generator's exception, once."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            # The exception's traceback holds this frame, which must not hold the exception.
            del error

    def _wake(self) -> None:
        self.changed.set()
        try:
            self.wake()
        except RuntimeError:
            # The loop that waited is closed.
            self.wake = int

    def _arrive(self, _: object) -> None:
        self.has_ended = True
        self._wake()

    def _raise(self, error: BaseException) -> None:
        self._error = as_error(self._translator.raised(error))
        self.has_ended = True
        self._wake()

    def _fail(self, error: BaseException) -> None:
        self._error = self._translator.failed(error)
        if isinstance(self._error, CancelledError):
            self._error = CancelledError("the pool has cancelled the generator")
        self.has_ended = True
        self._wake()
