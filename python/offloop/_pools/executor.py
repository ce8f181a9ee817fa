"""The methods that both pools have: calls awaited on the loop, maps, context managers."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

from .. import _calls
from .._offloop import Job, Metrics
from .loop import JobFuture
from .results import MapStream

R = TypeVar("R")

OnFull = Literal["wait", "reject", "caller_runs", "shed_oldest"]
"""The policy of a pool whose queue is full."""


class CallLimits(NamedTuple):
    """The limits of one call."""

    timeout: float | None = None
    """The seconds for which it may run."""
    queue_timeout: float | None = None
    """The seconds for which it may wait for a worker."""
    priority: int = 0
    """Calls with a higher one, from -128 to 127, run first."""


NO_LIMITS = CallLimits()


class PicklingFailed(Exception):
    """A call could not be pickled; `error` is the reason."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Pool(Executor):
    """An executor whose calls can be awaited."""

    _uses_chunks = True
    """Whether a call costs so much to hand over that `map` should hand over several at once."""

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

        `timeout` is the number of seconds for which the call may run, and `queue_timeout` the number of seconds for
        which it may wait for a worker; after that it ends with `RunTimeout` or `QueueTimeout`, which are both a
        `TimeoutError`. Calls with a higher `priority` (-128 to 127) run first. Cancelling the returned future, or the
        task that awaits it, cancels the job. A queued job never runs; one that runs in a process is killed; for one
        that runs in a thread, `offloop.is_cancelled()` turns true.

        Keyword arguments of these three names do not reach `fn`; wrap it in `functools.partial` for that.
        """
        loop = asyncio.get_running_loop()
        future: JobFuture[R] = JobFuture(loop=loop)
        try:
            try:
                future._job = self._dispatch(  # pyright: ignore[reportPrivateUsage]
                    future, loop, fn, args, kwargs, CallLimits(timeout, queue_timeout, priority)
                )
            except PicklingFailed as failed:
                future._raise(failed.error)  # pyright: ignore[reportPrivateUsage]
            return future
        finally:
            # The traceback of a pickling error leads to this frame, which must not hold the future that holds the error.
            del future

    def metrics(self) -> Metrics:
        """Returns the pool's metrics: outcomes, times, states. Takes some microseconds."""
        raise NotImplementedError

    def _dispatch(
        self,
        receiver: Any,
        loop: asyncio.AbstractEventLoop | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        limits: CallLimits = NO_LIMITS,
    ) -> Job:
        """Submits a call. Its end is reported to `receiver`: on `loop`, or on some thread if that is None.

        Raises PicklingFailed if the call cannot be sent to where it is to run.
        """
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
    ) -> MapStream[R]:
        """Calls `fn` with the items of `iterables`, in parallel. Iterate over the result, or `async for`.

        With `buffersize`, at most that many calls run or have unread results at a time, and `iterables` are read as
        needed; without it all calls are submitted at once. `chunksize` items travel together to a process; threads
        take them one by one. Results come in the order of the items, or with `ordered=False` as they complete.
        `timeout` is the number of seconds that the whole map may take, counted from this call. `progress` is called
        with the number of items that have come since its last call, on the thread or loop that iterates; the
        `update` of a tqdm bar fits.

        An exception of a call is raised where its result would come, and ends the iteration; so does `close()`.
        The other calls are cancelled then, because their results can no longer be read.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or >= 1.")
        _calls.check_sync(fn)
        chunks = _chunks(zip(*iterables), chunksize if self._uses_chunks else 1)
        calls = (self.submit(_calls.call_each, fn, *chunk) for chunk in chunks)
        return MapStream(calls, buffersize, ordered, timeout, progress)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        # One Ctrl-C is enough, whether it comes in the block or during the wait.
        try:
            if isinstance(error, _INTERRUPTIONS):
                self._abort()
            else:
                self.shutdown(wait=True)
        except KeyboardInterrupt:
            self._abort()
            raise
        return None

    def _abort(self) -> None:
        """Shuts the pool down without waiting: cancels queued jobs, and stops running ones as far as possible."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, _INTERRUPTIONS):
            await run_in_daemon_thread(self._abort)
            return
        try:
            await run_in_daemon_thread(self.shutdown)
        except _INTERRUPTIONS:
            await run_in_daemon_thread(self._abort)
            raise


_INTERRUPTIONS = KeyboardInterrupt, asyncio.CancelledError
"""The exceptions after which a `with` block does not wait for the results of its jobs."""


async def run_in_daemon_thread(fn: Callable[[], object]) -> None:
    """Runs `fn` on a thread of its own, because the default executor may be the pool that is shut down."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def set_done() -> None:
        if not done.done():
            done.set_result(None)

    def call() -> None:
        try:
            fn()
        finally:
            loop.call_soon_threadsafe(set_done)

    threading.Thread(target=call, name="offloop-shutdown", daemon=True).start()
    await done


def _chunks(items: Iterator[Any], size: int) -> Iterator[tuple[Any, ...]]:
    while chunk := tuple(itertools.islice(items, size)):
        yield chunk
