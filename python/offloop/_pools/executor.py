"""What both pools have: calls awaited on the loop, maps, context managers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures import TimeoutError as FutureTimeout
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .. import _calls
from .._pools.loop import JobFuture
from .._offloop import Metrics

if TYPE_CHECKING:
    from typing_extensions import Self

R = TypeVar("R")


def ended_by_ctrl_c() -> bool:
    """Whether that is why the interpreter exits, so that nobody waits for work. At a prompt it ends a line only."""
    return getattr(sys, "last_type", None) is KeyboardInterrupt and not hasattr(sys, "ps1")


class Pool(Executor):
    """An executor whose calls can be awaited."""

    _chunks_travel = True
    """Whether it costs so much to hand over a call that `map` had better hand over several at once."""

    def run(
        self,
        fn: Callable[..., R],
        /,
        *args: Any,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        priority: int = 0,
        **kwargs: Any,
    ) -> JobFuture[R]:
        """Runs `fn(*args, **kwargs)` in the pool, to be awaited on the running loop. Does not block.

        `timeout` is how many seconds it may run and `queue_timeout` how many it may wait for a worker; after
        that it ends with `RunTimeout` or `QueueTimeout`, both `TimeoutError`. A higher `priority` (-128 to 127)
        comes first. Cancelling what is returned, or the task that awaits it, cancels the job: queued, it never
        runs; running in a process, it is killed; running in a thread, `offloop.is_cancelled()` turns true.

        Keyword arguments of these three names do not reach `fn`; wrap it in `functools.partial` for that.
        """
        loop = asyncio.get_running_loop()
        future: JobFuture[R] = JobFuture(loop=loop)
        self._start(future, loop, fn, args, kwargs, timeout, queue_timeout, priority)
        return future

    def metrics(self) -> Metrics:
        """What the pool has done and is doing: outcomes, times, states. Takes some microseconds."""
        raise NotImplementedError

    def _start(
        self,
        future: JobFuture[Any],
        loop: asyncio.AbstractEventLoop,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None,
        queue_timeout: float | None,
        priority: int,
    ) -> None:
        """Submits a call whose end is told to `future` on its loop, and gives that the job."""
        raise NotImplementedError

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        ordered: bool = True,
        progress: Callable[[int], object] | None = None,
    ) -> Results[R]:
        """Calls `fn` with the items of `iterables`, side by side. Iterate over what is returned, or `async for`.

        With `buffersize`, at most so many calls are under way and unread at a time, and `iterables` are read as
        needed; without it all calls are submitted at once. `chunksize` items travel together to a
        process; threads take them one by one. Results come in
        the order of the items, or with `ordered=False` as they complete. `timeout` is how many seconds the
        whole may take, counted from this call. `progress` is called with the number of items that have come
        since its last call, on the thread or loop that iterates; a tqdm bar's `update` fits.

        An exception of a call is raised where its result would come, and ends the iteration; so does `close()`.
        The other calls are cancelled then, as nobody could have their results.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or >= 1.")
        _calls.check_sync(fn)
        chunks = _chunks(zip(*iterables), chunksize if self._chunks_travel else 1)
        calls = (self.submit(_calls.each, fn, *chunk) for chunk in chunks)
        return Results(calls, buffersize, ordered, timeout, progress)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        # One Ctrl-C is enough, before or while we wait.
        try:
            if isinstance(error, _GIVES_UP):
                self._abort()
            else:
                self.shutdown(wait=True)
        except KeyboardInterrupt:
            self._abort()
            raise
        return None

    def _abort(self) -> None:
        """Gives up: cancels what is queued, stops what runs as far as it can be stopped."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, _GIVES_UP):
            await aside(self._abort)
            return
        try:
            await aside(self.shutdown)
        except _GIVES_UP:
            await aside(self._abort)
            raise


_GIVES_UP = KeyboardInterrupt, asyncio.CancelledError
"""What ends a `with` block whose results nobody waits for any more."""


async def aside(fn: Callable[[], object]) -> None:
    """Runs `fn` on a thread of its own, as the pools may be the thing that ends."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def tell() -> None:
        if not done.done():
            done.set_result(None)

    def call() -> None:
        try:
            fn()
        finally:
            loop.call_soon_threadsafe(tell)

    threading.Thread(target=call, name="offloop-shutdown", daemon=True).start()
    await done


def _look(waiting: asyncio.Future[Any]) -> None:
    """Spares a complaint about an exception that nobody has looked at: it is raised from the call itself."""
    if not waiting.cancelled():
        waiting.exception()


def _chunks(items: Iterator[Any], size: int) -> Iterator[tuple[Any, ...]]:
    while chunk := tuple(itertools.islice(items, size)):
        yield chunk


class Results(Generic[R]):
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
        self._ordered = ordered
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._progress = progress
        self._values: list[R] = []
        """What has come and not been given out, the last first."""
        self._under_way: dict[Future[list[R]], None] = {}
        """The calls whose results have not been taken, in their order."""
        self._completed: deque[Future[list[R]]] = deque()
        """Of these, those that have ended, if the order does not matter."""
        self._wake: Callable[[], object] = int
        """Tells whoever waits for one of them."""
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
        """Cancels what has not been read. Does not block."""
        self._calls = iter(())
        self._values.clear()
        while self._under_way:
            self._under_way.popitem()[0].cancel()

    def _submit(self, count: int | None) -> None:
        """Submits so many more calls; all if that is None."""
        for call in itertools.islice(self._calls, count):
            self._under_way[call] = None
            if not self._ordered:
                call.add_done_callback(self._note)

    def _note(self, call: Future[list[R]]) -> None:
        self._completed.append(call)
        self._wake()

    def _take(self, call: Future[list[R]]) -> None:
        """Reads a call that has ended."""
        del self._under_way[call]
        values = call.result()
        self._submit(1)
        count = len(values)
        values.reverse()
        self._values = values
        if self._progress is not None:
            self._progress(count)

    def _left(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def _wait(self) -> Future[list[R]]:
        """The next call that has ended. Blocks."""
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
        """The same without blocking."""
        if self._ordered:
            first = next(iter(self._under_way))
            if not first.done():
                # Waiting does not cancel it, nor raise what it raises.
                waiting = asyncio.wrap_future(first)
                waiting.add_done_callback(_look)
                await asyncio.wait([waiting], timeout=self._left())
            if not first.done():
                raise FutureTimeout
            return first
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                loop.call_soon_threadsafe(changed.set)

        self._wake = wake
        while not self._completed:
            try:
                await asyncio.wait_for(changed.wait(), self._left())
            except asyncio.TimeoutError:
                raise FutureTimeout from None
            changed.clear()
        return self._completed.popleft()
