"""The process pool."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, overload

from .. import _calls, _offloop
from .._offloop import CallOptions, Job, Metrics
from .._worker import forwarding, launch, logs, main, main_module, pickling, remote_errors, telemetry
from .._worker.surroundings import Surroundings
from . import green
from .cores import usable_cores
from .executor import OnFull, PicklingFailed, buffersize_of
from .exit import Kind, drain_at_exit, exit_handler
from .listening import Listening
from .loop import JobFuture
from .pickled_call import PickledCall
from .process_future import CrashPolicy
from .remote import RemotePool
from .shutdown import ShutdownReport, check_drain_alone, report_of, still_running
from .stream import ItemStream
from .warm_up import WarmUp
from .worker_process import WorkerProcess
from .workers import WorkerPool, check_max_workers

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

__all__ = ["ProcessPoolExecutor"]

_unnamed = itertools.count()

STDERR_TAIL = 16 * 1024
"""The bytes of a worker's standard error that the error of a crash has: enough for the traceback that `faulthandler` writes
and for its list of extension modules."""


ERRORS_AFTER = 1.0
"""The seconds from the first worker of the shared pool to the import of its errors. A short program does without it."""


class ProcessPoolExecutor(WorkerPool, RemotePool):
    """Runs calls in worker processes: a drop-in for `concurrent.futures.ProcessPoolExecutor`.

    Workers are forks of one warm, single-threaded interpreter, never of this process. A crash of a worker affects
    only the job that it ran, and the worker is replaced. A job that is cancelled, or out of time, is killed.

    Parameters of the standard pool:

    - `max_workers`: the largest number of processes; default: the number of cores that this process may use, by its
      affinity, its cgroup's quota and PYTHON_CPU_COUNT. They are started as they are needed.
    - `mp_context`: accepted for compatibility. With the start method "fork" the workers' template is a fork of this
      process, with everything that it has; with the others it is a new interpreter.
    - `initializer(*initargs)` runs once in each worker. If it fails, the worker cannot start, and calls end with
      `WorkerStartError`.
    - `max_tasks_per_child`: the number of jobs after which a worker is replaced.

    Further parameters:

    - `queue_capacity`: the number of jobs that may wait for a worker, and `on_full` the policy for one more: "wait"
      (it stays pending until there is room), "reject" (`QueueFull`), "caller_runs" (the submitting thread runs it at
      once), "shed_oldest" (the oldest in the queue ends with `JobShed`).
    - `preload`: the names of modules that the template imports, once for all workers; "__main__" is one. Their state is
      the same in all workers: see `os.register_at_fork` for random generators and connections.
    - `on_crash`: "isolate", or "break": as in the standard pool, a crash breaks the pool.
    - `worker_state()` makes a value that each worker keeps, such as a connection; jobs get it from
      `offloop.worker_state()`. `close_worker_state(value)` closes it when the worker ends or a job discards it, but
      not when the worker is killed.
    - `min_workers`: the number of workers that are started when the pool is made, and that stay; the others are
      started as they are needed. `idle_timeout`: the seconds without a job after which one of the others leaves; None:
      none leaves, as in the standard pool, so what an initializer has loaded is kept.
    - `max_worker_age`: the seconds after which a worker is replaced.
    - `recycle_rss`: the bytes that a worker may have resident between two jobs; one that has more is replaced, and no
      job is interrupted. `max_rss`: the bytes that it may have while it runs a job, measured every 50 ms; one that has
      more is killed. `max_data`: the bytes of memory that the system lets it allocate.
    - `max_payload`: the bytes that a call or a result may have, large buffers included; below 4 GiB.
    - `nice`: the number by which workers' niceness is raised; `cpu_affinity`: the cores that they may use.
    - `grace`: the seconds between SIGTERM and SIGKILL when a job is to end.
    - `kill_children`: whether the programs that a job has started are ended with it when it is killed or its worker
      crashes. What a job has left in the background outlives a worker that leaves by itself. With False, workers and
      what they start stay in the process group of this process.
    - `start_timeout`: the seconds that a worker's process may take to start. `setup_timeout`: those that the preloading
      may take, and the initializer in each worker. `load_timeout`: those that a job with a `timeout` may take before its
      function is called, while the modules of the function and its arguments are imported; `timeout` counts after that.
    - `env`: environment variables that workers have in addition to those of this process when the pool is made; `cwd`:
      their directory. The first process starts right after that time, so standard streams are redirected before.
    - `results`: "pickle", or "data": results, items and exceptions travel as plain data, and nothing that a worker has
      sent is unpickled. Results may consist of None, bool, int, float, str, bytes, bytearray, memoryview, list, tuple,
      dict, set and frozenset; an exception arrives as `RemoteError`. For workers that may be taken over by what they
      process, and have less rights than this process.
    - `context_vars`: the context variables, defined at the top level of modules, whose values travel with each call. Each
      worker imports these modules. The logger `offloop.advice` names an import that takes long for that reason alone.
    - `exit_timeout`: the seconds for which the interpreter's exit waits for accepted jobs; None: forever.
    - `name`: the pool's name in `metrics()`. Calls that wait and do not compute, which threads could do, are logged
      with it, once for each function, by the logger `offloop.advice`.
    """

    _listening: Listening  # pyright: ignore[reportIncompatibleVariableOverride]

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
        min_workers: int = 0,
        idle_timeout: float | None = None,
        recycle_rss: int | None = None,
        max_rss: int | None = None,
        max_data: int | None = None,
        max_payload: int = 1 << 30,
        nice: int = 5,
        cpu_affinity: Iterable[int] | None = None,
        grace: float = 0.5,
        kill_children: bool = True,
        start_timeout: float = 10.0,
        setup_timeout: float = 600.0,
        load_timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        results: Literal["pickle", "data"] = "pickle",
        context_vars: Sequence[ContextVar[Any]] = (),
        exit_timeout: float | None = 60.0,
        name: str = "",
    ) -> None:
        main_module.refuse_while_importing_main()
        launch.refuse_in_a_template()
        green.refuse_for_processes()
        if max_workers is not None:
            check_max_workers(max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        if isinstance(preload, str):
            raise TypeError(f"preload is a sequence of module names, not one name: give [{preload!r}]")
        forks = mp_context is not None and mp_context.get_start_method() == "fork"
        if forks and max_tasks_per_child is not None:
            raise ValueError("max_tasks_per_child is incompatible with the 'fork' multiprocessing start method")
        self._max_workers = max_workers or usable_cores()
        self._capture = _capture(context_vars)
        self._surroundings = Surroundings(cwd is not None, env)
        self._as_data = results == "data"
        self._start_timeout = start_timeout
        self._seen: dict[int, WorkerProcess] = {}
        """The workers that `_processes` has returned last."""

        self._levels = logs.levels()
        """The levels of loggers that the workers begin with."""

        directory = None if cwd is None else os.fspath(cwd)
        preparation = {
            "process": main_module.preparation(cwd=directory),
            "preload": list(preload),
            "levels": self._levels,
            "as_data": self._as_data,
            "coverage": launch.coverage_configuration(),
        }
        settings: dict[str, Any] = {
            "name": name or f"ProcessPoolExecutor-{next(_unnamed)}",
            "min_workers": min_workers,
            "idle_timeout": idle_timeout,
            "max_workers": self._max_workers,
            "queue_capacity": queue_capacity,
            "on_full": on_full,
            "on_crash": on_crash,
            "grace": grace,
            "kill_children": kill_children,
            "start_timeout": start_timeout,
            "setup_timeout": setup_timeout,
            "load_timeout": load_timeout,
            "max_tasks_per_child": max_tasks_per_child,
            "max_worker_age": max_worker_age,
            "recycle_rss": recycle_rss,
            "max_rss": max_rss,
            "max_data": max_data,
            "max_payload": max_payload,
            "nice": nice,
            "cpu_affinity": None if cpu_affinity is None else list(cpu_affinity),
            "cwd": directory,
            "results": results,
            "stderr_tail": STDERR_TAIL,
            # The first call starts all workers, as in the standard pool, if they are forks of this process.
            "starts_all": forks,
        }
        initialisation = initializer, initargs, worker_state, close_worker_state
        self._initialisation = initialisation
        """Kept, as some of its objects name something that is removed with them, such as a lock of multiprocessing."""
        pickled, descriptors = b"", list[int]()
        if not forks and (initializer is not None or worker_state is not None):
            pickled, descriptors = _pickle_initialisation(initialisation)
        if forks:
            # The forks inherit its descriptor.
            tracker = launch.tracker_descriptor()
            if tracker is not None:
                os.close(tracker)

            def fork(socket: int) -> int:
                return _fork(socket, preparation, initialisation)

            settings["fork"] = fork
        else:
            settings |= launch.settings(preparation, descriptors)
            settings["env"] = None if env is None else list(env.items())
        if initializer is not None or worker_state is not None:
            inherited: main.Call = main.initialise_inherited, (), {}
            settings["initializer"] = pickling.dumps(inherited, _never)[0] if forks else pickled
        if on_full == "caller_runs":
            _offloop.set_performer(main, None)
        self._engine = _offloop.ProcessPool(settings)
        self._translator = self._crash_policy = CrashPolicy(self._engine, on_crash == "break")
        self._closed = False
        self._listening = Listening(self._engine)  # pyright: ignore[reportIncompatibleVariableOverride]
        self._finalizer = weakref.finalize(self, self._engine.close)
        self._finalizer.atexit = False
        _finish_at_exit(self._engine, exit_timeout)
        # While the template gets ready.
        if not _imports.errors_later:
            import_errors()

    def warm_up(self, workers: int | None = None) -> WarmUp:
        """Starts `workers` processes (None: `max_workers`), so that the first jobs need not wait for them.

        Does not block. `await` the result on an event loop, or call its `wait()`, which blocks. Both raise
        `WorkerStartError` if no worker can be started.
        """
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}; it must be 1 or more")
        return WarmUp(lambda: self._warm_up(workers))

    def _warm_up(self, workers: int | None) -> None:
        count = min(workers or self._max_workers, self._max_workers)
        self._engine.prestart(count)
        # If a worker cannot be started, a job says why.
        self.submit(int).result()
        deadline = time.monotonic() + self._start_timeout
        while len(self._engine.workers()) < count and time.monotonic() < deadline and not self._closed:
            time.sleep(0.001)

    def _import_errors(self) -> None:
        """Imports the errors of its jobs a while after the first worker has come. Blocks.

        Until then the cores are needed for the first calls, and an event loop would wait for the thread that imports.
        """
        deadline = time.monotonic() + self._start_timeout
        while not (self._engine.workers() or self._closed) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(ERRORS_AFTER)
        # Not during the exit: after Ctrl-C an import can change the program's exit status, because code that any thread
        # evaluates from a string makes CPython forget what has ended the program.
        if not exit_handler.has_begun:
            # If it fails, an error that is needed tries it again.
            with contextlib.suppress(ImportError, OSError):
                import_errors()

    def _follow_program(self) -> None:
        """Makes the workers follow changes of the program's environment and directory, and not only of its search path."""
        self._surroundings.follow_all()
        self._engine.end_silence()

    def _stream(
        self,
        fn: Callable[..., Iterable[Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> ItemStream[Any]:
        buffersize = buffersize_of(options)
        _calls.check_sync(fn)
        stream: ItemStream[Any] = ItemStream(self._crash_policy)
        try:
            try:
                stream._job = self._dispatch(
                    stream._receiver,
                    None,
                    main.send_items,
                    (fn, args, kwargs, self._as_data),
                    {},
                    options,
                    buffersize,
                )
            except PicklingFailed as failed:
                stream._receiver._raise(failed.error)
            return stream
        finally:
            del stream

    def _dispatch(
        self,
        receiver: Any,
        loop: asyncio.AbstractEventLoop | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
        buffersize: int | None = None,
    ) -> Job:
        """Submits a call, of a generator if there is a `buffersize`. See `Pool._dispatch`."""
        try:
            return self._engine.dispatch(self, receiver, loop, fn, args, kwargs, options, buffersize)
        finally:
            # The traceback of a pickling error leads to this frame, which must not hold the future that holds the error.
            del receiver

    def _run(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: CallOptions | None = None,
    ) -> JobFuture[Any]:
        # Kept in no variable, for the same reason as in `_dispatch`.
        return self._engine.run(self, fn, args, kwargs, options)  # type: ignore[no-any-return]

    def _check_open(self) -> None:
        if self._crash_policy.broken is not None:
            raise self._crash_policy.pool_broken()
        if exit_handler.has_begun:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _send(
        self,
        receiver: Any,
        loop: asyncio.AbstractEventLoop | None,
        call: PickledCall,
        options: CallOptions | None = None,
        buffersize: int | None = None,
    ) -> Job:
        """Submits a call that is pickled already. See `Pool._dispatch`."""
        return self._engine.send(self, receiver, loop, call, options, buffersize)

    def _prelude(self) -> bytes | None:
        """Returns what a worker must know before it unpickles a call; None if there is nothing. Called by the engine's
        binding, unless `set_silence` has told it that there is nothing. Raises PicklingFailed."""
        context = None if self._capture is None else self._capture()
        if (trace := telemetry.departing()) is not None:
            context = {**(context or {}), telemetry.NAME: trace}
        if (levels := logs.levels()) is not self._levels:
            context = {**(context or {}), forwarding.NAME: levels}
        change = self._surroundings.departing()
        if context is not None or change is not None:
            try:
                return main.pickle_prelude((context, change))
            except BaseException as error:
                raise PicklingFailed(remote_errors.without_own_frames(error)) from None
        path, probe = self._surroundings.path_alone(), logs.probe()
        if self._capture is None and path is not None and probe is not None:
            self._engine.set_silence(path, levels, *probe)
        return None

    @overload
    def shutdown(
        self,
        wait: bool = True,
        *,
        cancel_futures: bool = False,
        timeout: float | None = None,
        kill_workers: bool = False,
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
        kill_workers: bool = False,
    ) -> ShutdownReport | None:
        """Takes no more jobs. May be called again.

        With `cancel_futures` queued jobs are cancelled; with `kill_workers` running ones are killed, too. With `wait` it
        blocks until all accepted jobs have ended and the workers are gone; for at most `timeout` seconds, after which it
        raises TimeoutError, and the jobs go on.

        `drain` is the number of seconds for which it waits for accepted jobs. Then queued ones are cancelled, and the
        workers of running ones get SIGTERM, and SIGKILL after `grace` seconds. Returns what became of the jobs.
        """
        if drain is not None:
            check_drain_alone(wait, cancel_futures, timeout, kill_workers)
            return self._drain(drain)
        self._closed = True
        if kill_workers:
            self._engine.stop(True)
        elif cancel_futures:
            self._engine.cancel_queued()
        if not wait:
            self._finalizer()
            return None
        if timeout is None:
            self._engine.shutdown(None)
        else:
            self._engine.close()
            if not self._engine.wait_over(timeout):
                raise still_running(timeout, self._engine.queued())
        _offloop.flush()
        self._listening.stop()
        return None

    def _drain(self, seconds: float | None) -> ShutdownReport:
        self._closed = True
        report = report_of(self._engine.shutdown(seconds))
        _offloop.flush()
        self._listening.stop()
        return report

    def terminate_workers(self) -> None:
        """Ends the pool and all workers at once: by SIGTERM, and by SIGKILL after `grace` seconds. Does not wait for it.

        Queued jobs are cancelled, and running ones end with `WorkerDied`. None is tried again.
        """
        self._force_shutdown(operation="terminate")

    def kill_workers(self) -> None:
        """Does the same by SIGKILL."""
        self._force_shutdown(operation="kill")

    def _force_shutdown(self, operation: str) -> None:
        # The name, the argument and the calls of the processes' methods are those of the standard pool.
        if operation not in ("terminate", "kill"):
            raise ValueError(f"Unsupported operation: {operation!r}")
        processes = self._known_processes().values()
        self._closed = True
        self._engine.stop(operation == "kill")
        for process in processes:
            # The engine has begun to end them, so this does no more.
            process.kill() if operation == "kill" else process.terminate()

    def _set_max_workers(self, max_workers: int) -> None:
        self._engine.set_max_workers(max_workers)

    def metrics(self) -> Metrics:
        return self._engine.metrics()

    def _end(self) -> list[str]:
        if self._crash_policy.broken is not None:
            return ["broken"]
        return ["shut down"] if self._closed else []

    def _abort(self) -> None:
        self._closed = True
        self._engine.shutdown(0.0)
        _offloop.flush()
        self._listening.stop()

    @property
    def _broken(self) -> str | Literal[False]:
        return self._crash_policy.broken or False

    @property
    def _processes(self) -> dict[int, WorkerProcess]:
        """The workers, by process id. Waits for those that are being started.

        The attribute is private in the standard pool, but programs use it.
        """
        deadline = time.monotonic() + self._start_timeout
        while True:
            pids = self._engine.workers()
            has_ended = self._closed or self._crash_policy.broken is not None
            if len(pids) >= self._engine.target_workers() or has_ended or time.monotonic() > deadline:
                break
            time.sleep(0.001)
        return self._known_processes()

    def _known_processes(self) -> dict[int, WorkerProcess]:
        """Returns the workers that are there. In a pool that has ended these are the last ones."""
        pids = self._engine.workers()
        for pid in pids:
            self._seen.setdefault(pid, WorkerProcess(pid, self._engine))
        if pids or not (self._closed or self._crash_policy.broken is not None):
            self._seen = {pid: self._seen[pid] for pid in pids}
        return self._seen


def import_errors() -> None:
    """Imports the errors of jobs in processes, which takes long. One may be needed when no file can be opened."""
    from .. import _process_errors as _process_errors


class _Imports(threading.local):
    errors_later = False
    """Whether a pool that is made on this thread leaves the import of the errors to the caller."""


_imports = _Imports()


@contextlib.contextmanager
def errors_later() -> Generator[None, None, None]:
    """Makes pools, on this thread, without importing their errors. The caller does so by `_import_errors`."""
    _imports.errors_later = True
    try:
        yield
    finally:
        _imports.errors_later = False


def _capture(variables: Sequence[ContextVar[Any]]) -> Callable[[], dict[str, object]] | None:
    """Returns a function that captures the values of these variables for a call; None if there are none."""
    if not variables:
        return None
    from .._worker.context import capture, locate

    located = locate(variables)
    return lambda: capture(located)


def _never(_: object) -> bool:
    return False


def _fork(socket: int, preparation: Mapping[str, Any], initialisation: Any) -> int:
    main.inherited = initialisation
    return main.fork(socket, preparation)


def _pickle_initialisation(initialisation: Any) -> tuple[bytes, list[int]]:
    """Pickles the initialisation as multiprocessing does for a process that it starts. Returns it with the descriptors
    that the workers need for it."""
    from multiprocessing.context import get_spawning_popen, set_spawning_popen

    before = get_spawning_popen()
    handover: Any = launch.Handover()
    set_spawning_popen(handover)
    try:
        call: main.Call = main.initialise, initialisation, {}
        return pickling.dumps(call, _never)[0], handover.descriptors
    except BaseException:
        for descriptor in handover.descriptors:
            os.close(descriptor)
        raise
    finally:
        set_spawning_popen(before)


_engines: dict[int, tuple[_offloop.ProcessPool, float | None]] = {}
"""The pools that may have jobs at the interpreter's exit, and their `exit_timeout`. Each is removed when it has ended, and
then nothing but its users keeps its memory and its descriptors."""
_engine_keys = itertools.count()


def _finish_at_exit(engine: _offloop.ProcessPool, timeout: float | None) -> None:
    """Makes the interpreter's exit finish this pool's accepted jobs, for `timeout` seconds."""
    key = next(_engine_keys)
    _engines[key] = engine, timeout
    engine.on_over(functools.partial(_engines.pop, key, None))


# A child made by fork() does not see its parent's pools end.
os.register_at_fork(after_in_child=_engines.clear)


def _drain_of(engine: _offloop.ProcessPool) -> Callable[[float | None], ShutdownReport]:
    return lambda seconds: report_of(engine.shutdown(seconds))


def _finish_all(begun: float, interrupted: bool) -> None:
    """Finishes accepted jobs for as long as each pool allows, then kills."""
    engines = list(_engines.values())
    for engine, timeout in engines:
        interrupted = drain_at_exit(_drain_of(engine), timeout, begun, interrupted, "jobs killed while they ran")
    if engines:
        _offloop.flush()


exit_handler.add(Kind.PROCESSES, _finish_all)
