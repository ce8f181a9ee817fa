"""The methods that both pools have: calls awaited on the loop, maps, options, context managers."""
# pyright: reportPrivateUsage=false
# mypy: disable-error-code="overload-overlap"

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Never, ParamSpec, Self, TypeVar, overload

from .. import _calls
from .._offloop import CallOptions, Job, Metrics
from .futures import Future
from .loop import JobFuture
from .results import MapStream
from .shutdown import ShutdownReport
from .stream import ItemStream

if TYPE_CHECKING:
    from .._calls import AsyncFunctionRefused, AsyncResult

__all__ = ["PoolOptions"]

P = ParamSpec("P")
R = TypeVar("R")

OnFull = Literal["wait", "reject", "caller_runs", "shed_oldest"]
"""The policy of a pool whose queue is full."""


BUFFERSIZE = 16
"""The number of items of a stream that wait to be read, if the options do not give another."""


def buffersize_of(options: CallOptions | None) -> int:
    """Returns the number of items of a stream with these options that may wait to be read."""
    if options is None:
        return BUFFERSIZE
    if options.retries:
        raise ValueError("retries: a stream cannot be run again, because its first items may have been read")
    return options.buffersize or BUFFERSIZE


class PicklingFailed(Exception):
    """A call could not be pickled; `error` is the reason."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Pool(Executor):
    """An executor whose calls can be awaited."""

    _uses_chunks = True
    """Whether a call costs so much to hand over that `map` should hand over several at once."""
    _awaited_type: type[JobFuture[Any]] = JobFuture
    """The futures that `run` returns."""

    # Three signatures, of which type checkers take the first that fits: a function that returns anything at all, an
    # async function, and all others.
    @overload
    def run(
        self, fn: Callable[P, Never], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobFuture[Any]: ...
    @overload
    def run(
        self, fn: Callable[P, AsyncResult], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncFunctionRefused: ...
    @overload
    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[R]: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Runs `fn(*args, **kwargs)` in the pool, to be awaited on the running loop. Does not block.

        Cancelling the returned future, or the task that awaits it, cancels the job. A queued job never runs; one that
        runs in a process is killed; for one that runs in a thread, `offloop.is_cancelled()` turns true. Use `options`
        to limit the time.
        """
        return self._run(fn, args, kwargs)

    def _run(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> JobFuture[Any]:
        """See `run`."""
        loop = asyncio.get_running_loop()
        future = self._awaited_type(loop=loop)
        try:
            try:
                future._job = self._dispatch(future, loop, fn, args, kwargs, options)
            except PicklingFailed as failed:
                future._raise(failed.error)
            return future
        finally:
            # The traceback of a pickling error leads to this frame, which must not hold the future that holds the error.
            del future

    @overload
    def submit(
        self, fn: Callable[P, Never], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Any]: ...
    @overload
    def submit(
        self, fn: Callable[P, AsyncResult], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncFunctionRefused: ...
    @overload
    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submits `fn(*args, **kwargs)`. Does not block.

        A process pool pickles the call before this returns; if that fails, the future ends with the exception. A thread
        pool makes the call in a copy of the caller's context. Raises TypeError for an async function, RuntimeError after
        the shutdown, `QueueFull` if the policy says so.
        """
        return self._submit(fn, args, kwargs)

    def _submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> Future[Any]:
        """Submits a call whose end a `concurrent.futures.Future` reports."""
        raise NotImplementedError

    def options(
        self,
        *,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        priority: int = 0,
        name: str | None = None,
        request: str | None = None,
        retries: int = 0,
        buffersize: int | None = None,
    ) -> PoolOptions:
        """Returns this pool with options for calls: `await pool.options(timeout=5).run(fn, ...)`.

        timeout: seconds for which a call may run. After that it ends with `RunTimeout`, a `TimeoutError`: it is killed
        in a process, and in a thread `offloop.is_cancelled()` turns true.

        queue_timeout: seconds for which it may wait for a worker. After that it ends with `QueueTimeout`, a
        `TimeoutError`, and never runs.

        priority: calls with a higher one, from -128 to 127, run first.

        name: the name of the call in errors, in place of its function's.

        request: the id of the request that the call works for, in place of `offloop.request_id`; up to 200 characters.

        retries: the number of further workers that the call is given to when the one that runs it dies. Only for
        functions that may run more than once. Threads do not die, so there it has no effect.

        buffersize: the number of results of a `map`, or of items of a `stream`, that may wait to be read.

        The options apply to each call, and so to each chunk of a `map`, not to the map as a whole. Raises ValueError
        for a value that is out of range. The result is immutable and can be kept and used again.
        """
        return PoolOptions(
            self,
            CallOptions(
                timeout=timeout,
                queue_timeout=queue_timeout,
                priority=priority,
                name=name,
                request=request,
                retries=retries,
                buffersize=buffersize,
            ),
        )

    def stream(
        self, fn: Callable[P, Iterable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> ItemStream[R]:
        """Runs a generator function, or one that returns another iterable, in a worker. Does not block.

        Iterate over the result, or `async for`, to get the items as they come. At most 16 of them wait to be read, or
        the `buffersize` of the `options`; then the generator waits.
        """
        return self._stream(fn, args, kwargs)

    def _stream(
        self,
        fn: Callable[..., Iterable[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> ItemStream[Any]:
        """See `stream`."""
        raise NotImplementedError

    def metrics(self) -> Metrics:
        """Returns the pool's metrics: outcomes, times, states. Takes some microseconds."""
        raise NotImplementedError

    def _end(self) -> list[str]:
        """Returns the reason why the pool takes no more calls, for its `repr`; nothing if it does."""
        raise NotImplementedError

    def _dispatch(
        self,
        receiver: Any,
        loop: asyncio.AbstractEventLoop | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
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
        needed; without it all calls are submitted at once. `chunksize` items travel together to a process, as one call;
        threads take them one by one. Results come in the order of the items, or with `ordered=False` as they complete.
        `timeout` is the number of seconds that the whole map may take, counted from this call. `progress` is called
        with the number of items that have come since its last call, on the thread or loop that iterates; the
        `update` of a tqdm bar fits.

        An exception of a call is raised where its result would come, and ends the iteration; so does `close()`.
        The other calls are cancelled then, because their results can no longer be read.
        """
        return self._map(fn, iterables, timeout, chunksize, buffersize, ordered, progress)

    def _map(
        self,
        fn: Callable[..., R],
        iterables: Iterable[Iterable[Any]],
        timeout: float | None,
        chunksize: int,
        buffersize: int | None,
        ordered: bool,
        progress: Callable[[int], object] | None,
        options: CallOptions | None = None,
    ) -> MapStream[R]:
        """See `map`."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        check_buffersize(buffersize)
        _calls.check_sync(fn)
        chunks = _chunks(zip(*iterables), chunksize if self._uses_chunks else 1)
        calls = (self._submit(_calls.call_each, (fn, *chunk), {}, options) for chunk in chunks)
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

    def _drain(self, seconds: float | None) -> ShutdownReport:
        """Takes no more jobs, waits for accepted ones for as long (None: forever), then cancels and kills. Blocks."""
        raise NotImplementedError

    async def aclose(self, drain: float | None = None) -> ShutdownReport:
        """Shuts the pool down without blocking the loop: takes no more jobs, waits for accepted ones for at most `drain`
        seconds (None: for as long as they take), then cancels and ends the others as `shutdown(drain=...)` does.

        Returns what became of the jobs. If the task that awaits it is cancelled, the waiting is over at once.
        """
        return await self._end_or_abort(lambda: self._drain(drain))

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
        else:
            await self._end_or_abort(self.shutdown)

    async def _end_or_abort(self, end: Callable[[], R]) -> R:
        """Calls `end` without blocking the loop. If the task that awaits it is cancelled, the waiting is over at once."""
        try:
            return await run_in_daemon_thread(end)
        except _INTERRUPTIONS:
            await run_in_daemon_thread(self._abort)
            raise


class PoolOptions(Executor):
    """A pool with options for calls, made by `pool.options(...)`. Immutable.

    It is an executor, so `loop.run_in_executor(pool.options(timeout=5), fn)` works, too. Shutting it down shuts the
    pool down.
    """

    def __init__(self, pool: Pool, options: CallOptions) -> None:
        self._pool = pool
        self._options = options

    @overload
    def run(
        self, fn: Callable[P, Never], /, *args: P.args, **kwargs: P.kwargs
    ) -> JobFuture[Any]: ...
    @overload
    def run(
        self, fn: Callable[P, AsyncResult], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncFunctionRefused: ...
    @overload
    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> JobFuture[R]: ...
    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Runs `fn(*args, **kwargs)` in the pool, as its `run` does, with these options."""
        return self._pool._run(fn, args, kwargs, self._options)

    @overload
    def submit(
        self, fn: Callable[P, Never], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Any]: ...
    @overload
    def submit(
        self, fn: Callable[P, AsyncResult], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncFunctionRefused: ...
    @overload
    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Submits `fn(*args, **kwargs)` to the pool, as its `submit` does, with these options."""
        return self._pool._submit(fn, args, kwargs, self._options)

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
        """Calls `fn` with the items of `iterables`, as the pool's `map` does. Each call has these options.

        `timeout` is that of the whole map. Without a `buffersize` here, that of the options counts.
        """
        if buffersize is None:
            buffersize = self._options.buffersize
        return self._pool._map(
            fn, iterables, timeout, chunksize, buffersize, ordered, progress, self._options
        )

    def stream(
        self, fn: Callable[P, Iterable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> ItemStream[R]:
        """Runs a generator function in a worker, as the pool's `stream` does, with these options.

        The `timeout` includes the time for which the generator waits for the reader. Raises ValueError if there are
        `retries`.
        """
        return self._pool._stream(fn, args, kwargs, self._options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shuts the pool down."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PoolOptions):
            return NotImplemented
        return self._pool is other._pool and self._options == other._options

    def __hash__(self) -> int:
        return hash((self._pool, self._options))

    def __repr__(self) -> str:
        return f"{self._pool!r}.options({self._options})"


_INTERRUPTIONS = KeyboardInterrupt, asyncio.CancelledError
"""The exceptions after which a `with` block does not wait for the results of its jobs."""


async def run_in_daemon_thread(fn: Callable[[], R], name: str = "offloop-shutdown") -> R:
    """Runs `fn` on a thread of its own, because the default executor may be the pool that is shut down, or be full."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()

    def end(value: R | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(value)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        else:
            done.set_exception(error)

    def call() -> None:
        value, error = None, None
        try:
            value = fn()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed, so nothing waits
            loop.call_soon_threadsafe(end, value, error)
        # The exception's traceback holds this frame, which must not hold the exception.
        del error

    threading.Thread(target=call, name=name, daemon=True).start()
    return await done


def check_buffersize(buffersize: object) -> None:
    """Raises what `Executor.map` of Python 3.14 raises for a buffersize that is no number, or too small."""
    if buffersize is None:
        return
    if not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize < 1:
        raise ValueError("buffersize must be None or > 0")


def _chunks(items: Iterator[Any], size: int) -> Iterator[tuple[Any, ...]]:
    while chunk := tuple(itertools.islice(items, size)):
        yield chunk
