"""The worker's side: an interpreter that was started as a template of workers, or was forked from one.

How the parent starts a template is in `launch.py`.
"""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import faulthandler
import gc
import os
import sys

from .. import _calls, _offloop
from .._imports import when_imported
from . import forwarding, main_module, pickling, remote_errors, streams, surroundings, tracker
from .replies import LOG, RAISED, REFUSED, UNREADABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from typing_extensions import Buffer

    Call = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]
    """A call as it is pickled: the function and its arguments."""

    Prelude = tuple["dict[str, object] | None", "surroundings.Change | None"]
    """What a worker must know before it unpickles a call: the values of context variables, and the surroundings, if they
    have changed. It is pickled by itself, and only if there is any."""
else:
    # The module `signal` makes enumerations of its numbers, for which it imports `enum`.
    import _signal as signal

MARKER = "OFFLOOP_WORKER"
"""The engine's variable. It is removed, so that a program that a job starts does not act as a worker."""

LARGE_BUFFER = 16 * 1024
"""The size in bytes from which buffers travel beside their pickle."""

_preparation: Mapping[str, Any] = {}
"""The description of the parent. Set once, when the template begins."""
awaits_main = False
"""Whether the parent's main module may still have to be imported."""
awaits_multiprocessing = False
"""Whether multiprocessing, once imported, still has to be told that this process is a child."""
_forwarder: forwarding.Forwarder | None = None
"""The sender of log records to the parent, if this process is a worker."""


def main() -> None:
    """Runs a template that was started as a program."""
    template = _offloop.Template.connect()
    os.environ.pop(MARKER, None)
    if template is None:
        return
    own_path = list(sys.path)
    preparation = pickling.loads(template.start_data(), ())
    files = template.take_start_files()
    if not preparation["as_data"]:
        tracker.adopt(files.pop())
    inherited_files.extend(files)
    main_module.prepare_base(preparation["process"])
    # A frozen program has run its main module before it came here.
    _serve(template, preparation, bool(getattr(sys, "frozen", False)), lambda: _import_usual(own_path))


_USUAL = ("contextlib", "pickle", "signal", "struct", "threading", "typing")
"""The modules that most modules with jobs import, directly or not."""


def _import_usual(path: list[str]) -> None:
    """Imports modules of the standard library for the workers to come, with this search path. Called in the template, when
    it is at rest: its first worker does not wait for that."""
    path, sys.path[:] = list(sys.path), path
    try:
        for module in _USUAL:
            __import__(module)
    except (ImportError, OSError):  # no file can be opened, say: then workers import what they need
        pass
    finally:
        sys.path[:] = path
    gc.freeze()


inherited_files: list[int] = []
"""The descriptors that the template was given for the initialisation of the workers. Set once, when it begins."""


class InheritedFd:
    """What `multiprocessing.reduction.DupFd` returns elsewhere: unpickled in a worker, it gives a copy of a descriptor."""

    def __init__(self, number: int) -> None:
        self._number = number

    def detach(self) -> int:
        """Returns the copy, which the caller owns."""
        return os.dup(inherited_files[self._number])


class FrozenTemplate:
    """Stands for the process that `multiprocessing.freeze_support()` is told to become in a frozen program."""

    def _bootstrap(self, socket: int) -> int:
        # The caller has read the preamble from standard input, has closed that, and passes a copy of it.
        os.dup2(socket, 0)
        os.close(socket)
        main()
        return 0


def fork(socket: int, preparation: Mapping[str, Any]) -> int:
    """Forks this process as a template, for pools with the start method "fork". Returns the child's process id."""
    import warnings

    parent = os.getpid()
    with warnings.catch_warnings():
        # The program has asked for this start method.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = tracker.fork()
    if child:
        os.close(socket)
        return child
    try:
        template = _offloop.Template.adopt(socket, parent)
        if template is not None:
            _serve(template, preparation, has_main=True, at_rest=int, is_fork=True)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(1)


def _serve(
    template: _offloop.Template,
    preparation: Mapping[str, Any],
    has_main: bool,
    at_rest: Callable[[], object],
    is_fork: bool = False,
) -> None:
    """Forks workers until the pool has ended. Never returns.

    `has_main`: this process has the parent's main module already. `at_rest` is called once, when the first workers are
    there.
    """
    global _preparation, awaits_main, awaits_multiprocessing
    _reset_signals()
    # The end of what a crashed worker writes to standard error is in the error of its job: this adds where it was.
    faulthandler.enable(2, all_threads=False)
    _preparation = preparation["process"]
    surroundings.begin(_preparation["sys_path"])
    awaits_main = not has_main
    awaits_multiprocessing = True
    for module in preparation["preload"]:
        if module != "__main__":
            __import__(module)
        elif awaits_main:
            _import_main()
    # The objects that exist now are shared with all workers. A garbage collection that visited them would copy their
    # memory pages. Of what is imported so far alone, hardly anything is garbage.
    if preparation["preload"] or is_fork:
        gc.collect()
    gc.freeze()
    worker = template.serve(tracker.fork, at_rest)
    if worker is None:
        os._exit(0)
    _begin(preparation["levels"], is_fork)
    measurement = _begin_coverage(preparation["coverage"])
    worker.serve()
    _end(measurement)


def _reset_signals() -> None:
    """Makes this process handle signals as a new interpreter does, whatever the parent has blocked or ignored.

    Otherwise SIGTERM would not end a worker, programs that a job starts would ignore what the parent ignores, and with
    SIGCHLD the workers' exit statuses would be lost. A fork of the parent has its handlers, too.
    """
    # The handlers that a job sets must not write to the parent's event loop, either.
    signal.set_wakeup_fd(-1)
    ignored_by_python = {signal.SIGPIPE, getattr(signal, "SIGXFSZ", None)}
    for number in signal.valid_signals() - ignored_by_python:
        # A handler that was not installed from Python, such as that of `faulthandler`, is shown as None.
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # Ctrl-C goes to the whole foreground group; the parent decides what happens to the jobs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _begin(levels: forwarding.Levels, is_fork: bool) -> None:
    """Prepares a worker that was just forked, as multiprocessing does with a child."""
    if is_fork:
        from .logs import drop_handlers

        drop_handlers()
    streams.ends_by_signal = True
    _forward_records(forwarding.Forwarder(_send_record, levels))
    begin_multiprocessing()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        # The generator of `random` is seeded anew at a fork, but not that of NumPy.
        numpy.random.seed()


def _forward_records(forwarder: forwarding.Forwarder) -> None:
    """Sends this worker's log records to the parent, as soon as it imports `logging`."""
    global _forwarder
    _forwarder = forwarding.arriving.forwarder = forwarder
    perform = sys.modules[__name__]
    _offloop.set_performer(perform, forwarder)

    def begin(_: object) -> None:
        from .logs import install

        install(forwarder)
        # From now on `logging` says whether levels have changed.
        _offloop.set_performer(perform, forwarder)

    when_imported("logging", begin)


def _send_record(record: bytes) -> None:
    """Sends a log record of the job that runs."""
    # Of a job that is being stopped it would wait for a reader that is gone.
    if not streams.is_stopped:
        _offloop.emit((LOG, record, ()))


def begin_multiprocessing() -> None:
    """Tells multiprocessing that this process is a child, if that module has been imported."""
    global awaits_multiprocessing
    if "multiprocessing.process" not in sys.modules:
        return
    from multiprocessing import process, util

    awaits_multiprocessing = False
    util._finalizer_registry.clear()  # type: ignore[attr-defined]
    util._run_after_forkers()  # type: ignore[attr-defined]
    main_module.prepare_multiprocessing(dict(_preparation))
    current: Any = process.current_process()
    current._config["semprefix"] = "/mp"


def _begin_coverage(configuration: str | None) -> Any:
    """Measures this worker with coverage, as that does with processes of multiprocessing, if it measures the parent."""
    if configuration is None:
        return None
    try:
        import coverage
    except ImportError:  # it was installed for the parent alone
        return None
    measurement = coverage.Coverage(data_suffix=True, auto_data=True, config_file=configuration)
    measurement.start()
    return measurement


def _end(measurement: Any) -> None:
    """Ends a worker, as multiprocessing does with a child. Never returns."""
    try:
        # If the module was not imported, the worker has no state.
        jobs = sys.modules.get("offloop._jobs")
        if jobs is not None and jobs.process_state is not None:
            jobs.process_state.discard()
        if "threading" in sys.modules:
            import threading

            threading._shutdown()  # type: ignore[attr-defined]
        if "multiprocessing.util" in sys.modules:
            from multiprocessing import util

            util._exit_function()  # type: ignore[attr-defined]
        if measurement is not None:
            measurement.stop()
            measurement.save()
    finally:
        _flush()
        os._exit(0)


def _import_main() -> None:
    global awaits_main
    main_module.prepare_main(dict(_preparation))
    awaits_main = False


def _flush() -> None:
    """Flushes standard output and standard error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            # The job has replaced the stream, or closed it.
            pass


def travels_beside(buffer: Any) -> bool:
    """Returns whether a buffer travels beside its pickle instead of inside."""
    return len(buffer.raw()) >= LARGE_BUFFER


REQUEST = "offloop._requests:request_id"
"""The name by which workers find the context variable of the request that a call works for."""

_PRELUDE = 0
"""The first byte of a call with a prelude, whose length follows. A call itself begins with another one."""
_HEAD = 9
"""The bytes of both. The length has eight, of which the lowest comes first."""


def pickle_prelude(prelude: Prelude) -> bytes:
    """Returns a prelude as it precedes a pickled call."""
    data, _ = pickling.dumps(prelude, _stays_inside)
    return bytes([_PRELUDE]) + len(data).to_bytes(8, "little") + data


def _stays_inside(_: object) -> bool:
    return False


def _follow_prelude(body: memoryview) -> tuple[dict[str, object] | None, int]:
    """Follows the prelude of a call. Returns the values of context variables, and the prelude's length."""
    end = _HEAD + int.from_bytes(body[1:_HEAD], "little")
    prelude: Prelude = pickling.loads(body[_HEAD:end], ())
    context, change = prelude
    if change is not None:
        surroundings.enter(change)
    return context, end


def prepare_to_load(body: Buffer) -> None:
    """Imports the parent's main module, and readies multiprocessing, if a pickled call refers to them."""
    if awaits_main and main_module.needs_main(bytes(body)):
        _import_main()
    if awaits_multiprocessing and bytes(body).find(b"multiprocessing") >= 0:
        import multiprocessing.process  # pyright: ignore[reportUnusedImport]
    if awaits_multiprocessing:
        begin_multiprocessing()


def load_call(body: Buffer, buffers: Iterable[Buffer]) -> Call:
    """Unpickles a call."""
    call: Call = pickling.loads(body, buffers)
    if awaits_multiprocessing:
        begin_multiprocessing()
    return call


def prepare(body: Buffer, request: str | None) -> tuple[dict[str, object] | None, int]:
    """Prepares this process for unpickling a call. Returns the values of context variables, and where the call begins.
    Called by the engine's binding, for calls that need it."""
    prepare_to_load(body)
    context, start = None, 0
    body = memoryview(body)
    if body[0] == _PRELUDE:
        context, start = _follow_prelude(body)
    if request is not None:
        context = {**(context or {}), REQUEST: request}
    return context, start


def run_in_context(
    context: dict[str, object] | None,
    fn: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> object:
    """Makes a call with these values of context variables. Called by the engine's binding."""
    from .context import run_in

    return run_in(context or {}, fn, *args, **kwargs)


def pickle_result(
    value: object, fn: Callable[..., Any], args: tuple[Any, ...], refusal: Exception | None
) -> tuple[bytes, Sequence[Buffer]]:
    """Pickles the result of a call, or an item of a stream, which plain pickle alone does not: it has raised `refusal`, if
    that is not None. Called by the engine's binding."""
    try:
        return pickling.dumps(pickling.wrap_large(value), travels_beside, refusal=refusal)
    except Exception as error:
        from .culprit import name_culprit

        name = _calls.name_of(args[0] if fn is _calls.call_each else fn)
        parts = [("the result", value)]
        name_culprit(error, parts, name, lambda part: pickling.dumps(part, travels_beside))
        raise


class Encoded:
    """A result that is encoded already."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body


def unreadable(error: BaseException) -> tuple[int, bytes, Sequence[Buffer]]:
    """Returns the reply of a call that could not be unpickled. Called by the engine's binding."""
    return UNREADABLE, remote_errors.pack(error), ()


def failed(error: BaseException) -> tuple[int, bytes, Sequence[Buffer]]:
    """Returns the reply of a call that has raised, or whose result does not travel. Called by the engine's binding."""
    if isinstance(error, InitializerFailed):
        return REFUSED, str(error).encode(errors="replace"), ()
    return RAISED, remote_errors.pack(error), ()


def send_items(
    fn: Callable[..., Iterable[Any]], args: tuple[Any, ...], kwargs: Mapping[str, Any], as_data: bool
) -> None:
    """Sends the items of the iterable that `fn` returns. The call that `pool.stream` submits."""
    streams.send(lambda: fn(*args, **kwargs), lambda item: _offloop.emit_item(fn, item, as_data))


class InitializerFailed(Exception):
    """The initializer raised, so the worker cannot start. The text is the reason."""


def initialise(
    initializer: Callable[..., object] | None,
    args: tuple[Any, ...],
    open_state: Callable[[], Any] | None,
    close_state: Callable[[Any], object] | None,
) -> None:
    """Runs once in each worker, before its first job."""
    if _forwarder is not None:
        # The parent does not read records yet, so they are sent with those of the first job.
        _forwarder.job_runs = False
    try:
        if initializer is not None:
            initializer(*args)
        if open_state is not None:
            from .. import _jobs

            _jobs.process_state = _jobs.WorkerState(open_state, close_state)
    except BaseException as error:
        import logging
        import traceback

        logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
        traceback.print_exc()
        raise InitializerFailed(traceback.format_exception_only(error)[-1].strip()) from error


inherited: tuple[
    Callable[..., object] | None,
    tuple[Any, ...],
    Callable[[], Any] | None,
    Callable[[Any], object] | None,
]
"""The arguments of `initialise` that a forked template has inherited without pickling. Set before the fork."""


def initialise_inherited() -> None:
    """Calls `initialise` with the inherited arguments."""
    initialise(*inherited)
