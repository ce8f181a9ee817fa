"""The process pool."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import logging
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from .. import _calls, _offloop
from .._worker import main_module as _main
from .._worker import pickling as _pickling
from .._worker import replies as _replies
from .._worker import telemetry as _telemetry
from .._worker import main as _worker
from .._errors import Closed
from .._pools.executor import Pool, ended_by_ctrl_c
from .._pools.futures import Future
from .._pools.loop import JobFuture, mailbox_of
from .._offloop import Job, Mailbox, Metrics
from .._pools.stream import Stream

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

P = ParamSpec("P")
R = TypeVar("R")

OnFull = Literal["wait", "reject", "caller_runs", "shed_oldest"]

_unnamed = itertools.count()


class ProcessPoolExecutor(Pool):
    """Runs calls in worker processes: a drop-in for `concurrent.futures.ProcessPoolExecutor`.

    Workers are forks of one warm, single-threaded interpreter, never of this process. A worker that crashes
    takes only its own job with it and is replaced; a job that is cancelled, or out of time, is killed.

    As the standard one:

    - `max_workers`: how many processes at most; default: as many as this process may use cores. They are
      started as they are needed.
    - `mp_context`: taken for compatibility. With the start method "fork" the workers' template is forked from
      this process, with all that it has; with the others it is started anew.
    - `initializer(*initargs)` runs once in each worker. If it fails the pool cannot start workers.
    - `max_tasks_per_child`: a worker is replaced after so many jobs.

    And:

    - `queue_capacity`: how many jobs may wait for a worker, and `on_full` what happens then: "wait" (the job
      stays pending until there is room), "reject" (`QueueFull`), "caller_runs" (here and now, on the thread
      that submits), "shed_oldest" (the oldest ends with `Shed`).
    - `preload`: names of modules that the template imports, once for all workers; "__main__" is one.
    - `on_crash`: "isolate", or "break": as in the standard one, a crash breaks the pool.
    - `worker_state()` opens what each worker keeps (a connection, say); jobs get it from `offloop.worker_state()`.
      `close_worker_state(value)` closes it when the worker leaves or the job discards it; not if the worker is killed.
    - `max_worker_age`: seconds after which a worker is replaced.
    - `memory_limit`: bytes that a worker may have resident, measured every 50 ms; `memory_cap`: bytes that the
      system gives it at most.
    - `max_payload`: bytes that a call or a result may have, large buffers included; below 4 GiB.
    - `nice`: how much workers give way to other processes; `cpu_affinity`: the cores that they may use.
    - `grace`: seconds between SIGTERM and SIGKILL when a job is to end.
    - `start_timeout`: seconds that a worker may take to start, the preloading and the initializer included.
    - `env`: environment variables that workers have besides this process's; `cwd`: their directory.
    - `context_vars`: context variables, module-level ones, whose values travel with each call.
    - `exit_timeout`: seconds that the interpreter's exit waits for accepted jobs; None: for as long as it takes.
    - `name`: what the pool is called in `metrics()`. Calls that only wait, which threads could do, are logged there,
      once each, by the logger `offloop.advice`.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        queue_capacity: int = 10_000,
        on_full: OnFull = "wait",
        preload: Sequence[str] = (),
        on_crash: Literal["isolate", "break"] = "isolate",
        worker_state: Callable[[], object] | None = None,
        close_worker_state: Callable[[Any], object] | None = None,
        max_worker_age: float | None = None,
        memory_limit: int | None = None,
        memory_cap: int | None = None,
        max_payload: int = 1 << 30,
        nice: int = 5,
        cpu_affinity: Iterable[int] | None = None,
        grace: float = 0.5,
        start_timeout: float = 10.0,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        context_vars: Sequence[ContextVar[Any]] = (),
        exit_timeout: float | None = 60.0,
        name: str = "",
    ) -> None:
        _main.refuse_while_importing_main()
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        if on_crash not in ("isolate", "break"):
            raise ValueError(f'on_crash is {on_crash!r}; it must be "isolate" or "break"')
        forks = mp_context is not None and mp_context.get_start_method() == "fork"
        if forks and max_tasks_per_child is not None:
            raise ValueError("max_tasks_per_child is incompatible with the 'fork' multiprocessing start method")
        self._max_workers = max_workers or len(os.sched_getaffinity(0))
        self._fate = Fate(on_crash == "break")
        self._wanted = 0
        """How many workers there should be by now."""
        self._unsent = 0
        """How many calls could not be pickled; each counts as if it kept a worker busy, as in the standard pool."""
        self._at_once = forks
        self._capture = _capture(context_vars)
        self._start_timeout = start_timeout
        self._seen: dict[int, WorkerProcess] = {}

        directory = None if cwd is None else os.fspath(cwd)
        preparation = {
            "process": _main.preparation(cwd=directory),
            "preload": list(preload),
            "log_level": logging.getLogger().getEffectiveLevel(),
        }
        settings: dict[str, Any] = {
            "name": name or f"ProcessPoolExecutor-{next(_unnamed)}",
            "workers": 0,
            "queue_capacity": queue_capacity,
            "on_full": on_full,
            "breaks": on_crash == "break",
            "grace": grace,
            "start_timeout": start_timeout,
            "max_jobs_per_worker": max_tasks_per_child,
            "max_worker_age": max_worker_age,
            "memory_limit": memory_limit,
            "memory_cap": memory_cap,
            "max_payload": max_payload,
            "nice": nice,
            "cpu_affinity": None if cpu_affinity is None else list(cpu_affinity),
            "cwd": directory,
        }
        beginning = initializer, initargs, worker_state, close_worker_state
        if forks:

            def fork(socket: int) -> int:
                return _fork(socket, preparation, beginning)

            settings["fork"] = fork
        else:
            settings["program"], variables = _worker.command(preparation)
            settings["env"] = list({**(env or {}), **variables}.items())
        if initializer is not None or worker_state is not None:
            inherited: _worker.Call = _worker.initialise_inherited, (), {}, None
            settings["initializer"] = (
                _pickling.dumps(inherited, _never)[0]
                if forks
                else _pickle_initializer(beginning)
            )
        if on_full == "caller_runs":
            _offloop.perform_by(_worker.perform)
        self._engine = _offloop.ProcessPool(settings)
        self._fate.engine = self._engine
        self._closed = False
        self._listener: weakref.ref[asyncio.AbstractEventLoop] | None = None
        """The loop that takes the workers' answers."""
        self._leave: Callable[[], object] = int
        """Has it stop."""
        self._finalizer = weakref.finalize(self, self._engine.close)
        self._finalizer.atexit = False
        _ends.add(self._engine, exit_timeout)

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submits `fn(*args, **kwargs)`. Pickles at once; what cannot be pickled is the future's error. Does not
        block."""
        future: ProcessFuture[R] = ProcessFuture(self._fate)
        try:
            job = self._submit(future, None, fn, args, kwargs)
        except Unsent as unsent:
            future._fail(unsent.error)
        else:
            future._job = job
        return future

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
        try:
            self._send(future, loop, fn, args, kwargs, timeout, queue_timeout, priority)
        except Unsent as unsent:
            future._fail(unsent.error)

    def _send(
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
        """The same. Raises `Unsent` for what cannot be pickled."""
        future._translate = self._fate.translate
        mailbox = mailbox_of(loop)
        if self._listener is None or self._listener() is not loop:
            self._have_listen(loop, mailbox)
        future._job = self._submit(
            future, mailbox, fn, args, kwargs, timeout, queue_timeout, priority
        )

    def _have_listen(self, loop: asyncio.AbstractEventLoop, mailbox: Mailbox) -> None:
        """Has the loop take the workers' answers itself, if no other one does."""
        known = None if self._listener is None else self._listener()
        if known is None or known.is_closed():
            self._listener = weakref.ref(loop)
            descriptor = self._engine.listen()
            loop.add_reader(descriptor, self._engine.take_answers, mailbox)
            self._leave = weakref.finalize(self, _leave, self._listener, descriptor)
            self._leave.atexit = False

    def stream(
        self,
        fn: Callable[..., Iterable[R]],
        /,
        *args: Any,
        buffersize: int = 16,
        timeout: float | None = None,
        priority: int = 0,
        **kwargs: Any,
    ) -> Stream[R]:
        """Runs a generator function, or one that returns another iterable, in a worker; iterate over what is
        returned, or `async for`, to get its items as they come. At most `buffersize` of them wait to be read, then
        the generator waits. `timeout` is how many seconds it may run, those in which it waits included. Does not
        block.
        """
        if buffersize < 1:
            raise ValueError("buffersize must be >= 1.")
        _calls.check_sync(fn)
        stream: Stream[R] = Stream(self._fate.translate)
        try:
            stream._job = self._submit(
                stream._end,
                None,
                _worker.send_items,
                (fn, args, kwargs),
                {},
                timeout,
                None,
                priority,
                buffersize,
            )
        except Unsent as unsent:
            stream._end._fail(unsent.error)
        return stream

    def _submit(
        self,
        receiver: Any,
        mailbox: Mailbox | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        timeout: float | None = None,
        queue_timeout: float | None = None,
        priority: int = 0,
        buffersize: int | None = None,
    ) -> Job:
        _calls.check_sync(fn)
        if self._fate.broken is not None:
            raise BrokenProcessPool(self._fate.broken)
        if _ends.is_over:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._wanted < self._max_workers:
            self._grow()
        context = None if self._capture is None else self._capture()
        if (trace := _telemetry.departing()) is not None:
            context = {**(context or {}), _telemetry.NAME: trace}
        try:
            args, kwargs = _pickling.wrap_call(args, kwargs)
            body, buffers = _pickling.dumps((fn, args, kwargs, context), _worker.keep)
        except BaseException as error:
            self._unsent += 1
            raise Unsent(error) from None
        # What a map or a stream submits is named by what it calls.
        name = _calls.name_of(args[0] if fn is _calls.each or fn is _worker.send_items else fn)
        return self._engine.submit(
            body, buffers, receiver, mailbox, name, priority, timeout, queue_timeout, buffersize
        )

    def _grow(self) -> None:
        """Has another worker started if all that there are may be busy."""
        if self._at_once:
            self._wanted = self._max_workers
        elif self._engine.outstanding() + self._unsent >= self._wanted:
            self._wanted += 1
        else:
            return
        self._engine.resize(self._wanted)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more work. With `cancel_futures` queued jobs are cancelled. With `wait` blocks until all
        accepted jobs have ended and the workers are gone. May be called again."""
        self._closed = True
        if cancel_futures:
            self._engine.cancel_queued()
        if wait:
            self._engine.shutdown(None)
            _offloop.settle()
            self._leave()
        else:
            self._finalizer()

    def metrics(self) -> Metrics:
        return self._engine.metrics()

    def _abort(self) -> None:
        self._closed = True
        self._engine.shutdown(0.0)
        _offloop.settle()
        self._leave()

    @property
    def _broken(self) -> str | Literal[False]:
        return self._fate.broken or False

    @property
    def _processes(self) -> dict[int, WorkerProcess]:
        """The workers, by process id, those included that are being started. Programs look at it, so it is here."""
        deadline = time.monotonic() + self._start_timeout
        while True:
            pids = self._engine.workers()
            if len(pids) >= self._wanted or self._closed or self._fate.broken or time.monotonic() > deadline:
                break
            time.sleep(0.001)
        for pid in pids:
            self._seen.setdefault(pid, WorkerProcess(pid))
        if pids:
            self._seen = {pid: self._seen[pid] for pid in pids}
        return self._seen


class ProcessFuture(Future[R]):
    """The future of a job in a process, which can be cancelled while it runs: its process is killed."""

    def __init__(self, fate: Fate) -> None:
        super().__init__()
        self._fate = fate

    def cancel(self) -> bool:
        """Cancels the job, unless it has ended; says whether it is cancelled. Does not block."""
        if not super(Future, self).cancel():
            return False
        # Nobody else will tell those who wait.
        with self._condition:
            notify = self._state == "CANCELLED"
            if notify:
                self.set_running_or_notify_cancel()
        if notify and self._job is not None:
            self._job.cancel()
        return True

    def running(self) -> bool:
        """Whether a worker runs the job at this moment."""
        return not self.done() and self._job is not None and self._job.state == "running"

    def _claim(self) -> bool:
        """Whether the result is still wanted; from then on it cannot be cancelled."""
        with self._condition:
            if self._state != "PENDING":
                return False
            self._state = "RUNNING"
            return True

    def _arrive(self, value: R) -> None:
        if self._claim():
            self.set_result(value)

    def _fail(self, error: BaseException) -> None:
        error = self._fate.translate(error)
        if isinstance(error, CancelledError):
            self._job = None
            self.cancel()
        elif self._claim():
            self.set_exception(error)


class Unsent(Exception):
    """A call could not be pickled; `error` is why."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Fate:
    """What a crash means to a pool."""

    def __init__(self, breaks: bool) -> None:
        self.breaks = breaks
        self.broken: str | None = None
        """Why the pool is broken, if it is."""
        self.engine: _offloop.ProcessPool | None = None

    def translate(self, error: BaseException) -> BaseException:
        """What a job ends with."""
        if not self.breaks:
            return _replies.translate(error)
        if self.broken is None and isinstance(error, (BrokenProcessPool, _replies.Unreadable)):
            self.broken = f"A worker ended abruptly, which breaks this pool: {error}"
            assert self.engine is not None
            self.engine.abort()
        if isinstance(error, _replies.Unreadable):
            broken = BrokenProcessPool(self.broken)
            broken.__cause__ = error.error
            return broken
        if self.broken is not None and isinstance(error, (CancelledError, Closed)):
            return BrokenProcessPool(self.broken)
        return error


class WorkerProcess:
    """A worker, as far as those who look at `_processes` need it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = -1
        else:
            weakref.finalize(self, os.close, self._pidfd)

    def _signal(self, number: int) -> None:
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                pass

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._signal(signal.SIGKILL)

    def join(self, timeout: float | None = None) -> None:
        """Waits until the process has ended, for `timeout` seconds at most."""
        import select

        if self._pidfd >= 0:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.poll(None if timeout is None else timeout * 1000)

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        import select

        if self._pidfd < 0:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)


def _capture(variables: Sequence[ContextVar[Any]]) -> Callable[[], dict[str, object]] | None:
    """What takes the values of these variables along with a call, if there are any."""
    if not variables:
        return None
    from .._worker import context as _context

    located = _context.locate(variables)
    return lambda: _context.capture(located)


def _leave(listener: weakref.ref[asyncio.AbstractEventLoop], descriptor: int) -> None:
    """Has a loop take no more answers of a pool. On any thread."""
    loop = listener()
    if loop is not None and not loop.is_closed():
        with contextlib.suppress(RuntimeError):  # it is being closed
            loop.call_soon_threadsafe(loop.remove_reader, descriptor)


def _never(_: object) -> bool:
    return False


def _fork(socket: int, preparation: Mapping[str, Any], beginning: Any) -> int:
    _worker.inherited = beginning
    return _worker.fork(socket, preparation)


def _pickle_initializer(beginning: Any) -> bytes:
    """Pickles as for a process that is being started: what may only be inherited travels then, as under spawn."""
    from multiprocessing import resource_sharer
    from multiprocessing.context import get_spawning_popen, set_spawning_popen

    class Start:
        @staticmethod
        def duplicate_for_child(descriptor: int) -> int:
            return descriptor

        DupFd = resource_sharer.DupFd

    before = get_spawning_popen()
    start: Any = Start()
    set_spawning_popen(start)
    try:
        call: _worker.Call = _worker.initialise, beginning, {}, None
        return _pickling.dumps(call, _never)[0]
    finally:
        set_spawning_popen(before)


class _Ends:
    """What the interpreter's exit does with the pools that have not ended."""

    def __init__(self) -> None:
        self.is_over = False
        self._engines: dict[_offloop.ProcessPool, float | None] = {}
        try:
            # Before the threads are joined, as for the standard pools.
            threading._register_atexit(self.end)  # type: ignore[attr-defined]
        except AttributeError:
            atexit.register(self.end)

    def add(self, engine: _offloop.ProcessPool, timeout: float | None) -> None:
        """Its accepted work is finished before the interpreter is gone."""
        self._engines = {known: limit for known, limit in self._engines.items() if not known.is_over()}
        self._engines[engine] = timeout

    def end(self) -> None:
        """Finishes accepted work for as long as each pool allows, then kills."""
        self.is_over = True
        begun = time.monotonic()
        interrupted = ended_by_ctrl_c()
        for engine, timeout in self._engines.items():
            left = None if timeout is None else max(0.0, begun + timeout - time.monotonic())
            try:
                _, cancelled, killed, _ = engine.shutdown(0.0 if interrupted else left)
            except KeyboardInterrupt:
                interrupted = True
                _, cancelled, killed, _ = engine.shutdown(0.0)
            if cancelled or killed:
                why = "after Ctrl-C" if interrupted else f"after {timeout} s (exit_timeout)"
                print(
                    f"offloop: the interpreter exits {why}: jobs killed while they ran: {killed}, "
                    f"queued ones cancelled: {cancelled}.",
                    file=sys.stderr,
                )
        if self._engines:
            _offloop.settle()


_ends = _Ends()
