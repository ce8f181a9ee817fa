"""The items of a generator that runs in a worker, as the caller reads them."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, Self, TypeVar

from .._errors import CancelledError
from .._jobs import on_cancel
from .._offloop import Job, blocking
from .outcomes import Translator, as_error

__all__ = ["ItemStream"]

R = TypeVar("R")


class ItemStream(Generic[R]):
    """The items of a generator that runs in a worker: an iterator, for loops with and without `async`.

    At most `buffersize` items wait here to be read; then the generator waits. An exception of the generator is raised
    after its items. When the loop over the stream ends early, or `close()` is called, the generator is ended: in a
    process by SIGTERM, which raises GeneratorExit in it, and by SIGKILL after the pool's grace period; in a thread by
    closing the generator, where it yields next.
    """

    def __init__(self, translator: Translator | None = None) -> None:
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
            # The generator may need a thread of the pool that this job runs in.
            blocking(self._receiver.changed.wait)

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


class Channel:
    """The items of a generator that runs in a thread, on their way to the reader."""

    def __init__(self, wake: Callable[[], object], buffersize: int) -> None:
        self._wake = wake
        """Tells the reader that there is an item."""
        self._buffersize = buffersize
        # Guards the two below. Notified when the reader has taken an item, and when the channel is closed.
        self._changed = threading.Condition()
        self._items: deque[Any] = deque()
        self._is_closed = False

    def send(self, items: Iterable[Any]) -> None:
        """Sends the items as they come, on the thread that makes them. Blocks while there is no room."""
        try:
            with on_cancel(self.close):
                for item in items:
                    if not self._put(item):
                        break
        finally:
            # A generator that is not at its end ends here, on its own thread.
            close: Callable[[], object] = getattr(items, "close", int)
            close()

    def _put(self, item: object) -> bool:
        """Appends an item, when there is room. Returns False if nobody reads it."""
        with self._changed:
            while len(self._items) >= self._buffersize and not self._is_closed:
                # The reader may be a job of the same pool, which needs a thread.
                blocking(self._changed.wait)
            if self._is_closed:
                return False
            self._items.append(item)
        self._wake()
        return True

    def next_item(self) -> tuple[Any] | None:
        """Takes an item. Returns None if there is none. Does not block."""
        with self._changed:
            if not self._items:
                return None
            self._changed.notify()
            return (self._items.popleft(),)

    def close(self) -> None:
        """Ends the wait for the reader, which reads no more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()


class StreamedJob:
    """The job of a generator in a thread, with the methods of the job of one in a process."""

    def __init__(self, job: Job, channel: Channel) -> None:
        self._job = job
        self._channel = channel
        self.next_item = channel.next_item

    def cancel(self) -> None:
        """Ends the generator. Does not block."""
        self._channel.close()
        self._job.cancel()


class _StreamReceiver:
    """Learns of new items and of the generator's end.

    The job refers to this object and not to the stream, so that a stream that is no longer used is closed.
    """

    def __init__(self, translator: Translator | None) -> None:
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
        if self._translator is not None:
            error = self._translator.raised(error)
        self._error = as_error(error)
        self.has_ended = True
        self._wake()

    def _fail(self, error: BaseException) -> None:
        if self._translator is not None:
            error = self._translator.failed(error)
        if isinstance(error, CancelledError):
            error = CancelledError("the pool has cancelled the generator")
        self._error = error
        self.has_ended = True
        self._wake()
