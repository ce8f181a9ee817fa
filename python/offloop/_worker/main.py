"""The other side: what an interpreter does that was started as a template of workers, or forked from it."""
# pyright: reportPrivateUsage=false

from __future__ import annotations

import gc
import os
import signal
import sys
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import _calls, _offloop
from .._worker import logs as _logs
from .._worker import main_module as _main
from .._worker import pickling as _pickling
from .._worker import remote_errors as _remote_errors
from .._worker.replies import LOG, RAISED, REFUSED, RESULT, UNREADABLE

if TYPE_CHECKING:
    from typing_extensions import Buffer

PREPARATION = "OFFLOOP_PREPARATION"
"""The environment variable with what a template needs to know."""

MARKER = "OFFLOOP_WORKER"
"""The engine's variable; what a job starts must not take itself for a worker."""

LARGE_BUFFER = 16 * 1024
"""From this size in bytes on, buffers travel beside their pickle."""

_preparation: Mapping[str, Any] = {}
_awaits_main = False


def command(preparation: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """The command line of a template, and the environment variables that it needs."""
    import pickle
    from multiprocessing import spawn, util

    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    program = f"import sys; sys.path.insert(0, {package!r}); from offloop._worker.main import main; main()"
    flags: list[str] = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    executable = os.fsdecode(spawn.get_executable())
    environment = {PREPARATION: b2a_base64(pickle.dumps(dict(preparation)), newline=False).decode()}
    return [executable, *flags, "-c", program], environment


def main() -> None:
    """The life of a template that was started as a program."""
    import pickle

    template = _offloop.Template.connect()
    preparation = pickle.loads(a2b_base64(os.environ.pop(PREPARATION)))
    os.environ.pop(MARKER, None)
    if template is None:
        return
    _main.prepare_base(preparation["process"])
    _live(template, preparation, is_fork=False)


def fork(socket: int, preparation: Mapping[str, Any]) -> int:
    """Forks this process as a template, for users of the start method "fork". Returns the child's process id."""
    import warnings

    parent = os.getpid()
    with warnings.catch_warnings():
        # That is what they have asked for.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        os.close(socket)
        return child
    try:
        template = _offloop.Template.adopt(socket, parent)
        if template is not None:
            _live(template, preparation, is_fork=True)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(1)


def _live(template: _offloop.Template, preparation: Mapping[str, Any], is_fork: bool) -> None:
    """Forks workers until the pool is gone. Never returns."""
    global _preparation, _awaits_main, _awaits_multiprocessing
    # Ctrl-C goes to the whole foreground group; what becomes of the jobs then is the parent's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Ignored, as a parent may have it, the workers' exit statuses would be lost.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _preparation = preparation["process"]
    # A fork of the parent has its main module already.
    _awaits_main = not is_fork
    _awaits_multiprocessing = True
    for module in preparation["preload"]:
        if module != "__main__":
            __import__(module)
        elif _awaits_main:
            _import_main()
    # What is there now stays as it is: to look through it would only copy its pages.
    gc.collect()
    gc.freeze()
    worker = template.serve(os.fork)
    if worker is None:
        os._exit(0)
    _begin(preparation["log_level"])
    _offloop.perform_by(perform)
    worker.serve()
    _end()


_log: _logs.Forwarder | None = None
"""What sends log records to the parent, if this process is a worker."""


def _begin(log_level: int) -> None:
    """As multiprocessing begins a child."""
    global _log
    _log = _logs.install(lambda record: _offloop.emit((LOG, record, ())), log_level)
    _begin_multiprocessing()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        # The standard library's generator is seeded anew by fork.
        numpy.random.seed()


_awaits_multiprocessing = False


def _begin_multiprocessing() -> None:
    """Makes this process a child of its parent in the eyes of multiprocessing, as soon as somebody has imported that."""
    global _awaits_multiprocessing
    if "multiprocessing.process" not in sys.modules:
        return
    from multiprocessing import process, util

    _awaits_multiprocessing = False
    util._finalizer_registry.clear()  # type: ignore[attr-defined]
    util._run_after_forkers()  # type: ignore[attr-defined]
    _main.prepare_multiprocessing(dict(_preparation))
    current: Any = process.current_process()
    current._config["semprefix"] = "/mp"


def _end() -> None:
    """As multiprocessing ends a child. Never returns."""
    import threading

    try:
        jobs = sys.modules.get("offloop._jobs")
        if jobs is not None and jobs.process_state is not None:
            jobs.process_state.discard()
        threading._shutdown()  # type: ignore[attr-defined]
        if "multiprocessing.util" in sys.modules:
            from multiprocessing import util

            util._exit_function()  # type: ignore[attr-defined]
    finally:
        _flush()
        os._exit(0)


def _import_main() -> None:
    global _awaits_main
    _main.prepare_main(dict(_preparation))
    _awaits_main = False


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, ValueError, OSError):
            # The job has put something else there, or closed it.
            pass


def keep(buffer: Any) -> bool:
    """Whether a buffer travels beside its pickle."""
    return len(buffer.raw()) >= LARGE_BUFFER


Call = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any], "dict[str, object] | None"]


def perform(body: Buffer, buffers: Iterable[Buffer]) -> tuple[int, bytes, Sequence[Buffer]]:
    """Performs a pickled call. Whatever goes wrong with it is in the reply."""
    if _log is None or _log.job_runs:
        # The process that has the pool, and runs what its queue has no room for.
        return _perform(body, buffers)
    _log.job_runs = True
    try:
        return _perform(body, buffers)
    finally:
        _log.flush()
        _log.job_runs = False
        _flush()


def _perform(body: Buffer, buffers: Iterable[Buffer]) -> tuple[int, bytes, Sequence[Buffer]]:
    try:
        if _awaits_main and _main.needs_main(bytes(body)):
            _import_main()
        if _awaits_multiprocessing and bytes(body).find(b"multiprocessing") >= 0:
            import multiprocessing.process  # pyright: ignore[reportUnusedImport]
        if _awaits_multiprocessing:
            _begin_multiprocessing()
        call: Call = _pickling.loads(body, buffers)
        if _awaits_multiprocessing:
            _begin_multiprocessing()
    except BaseException as error:
        return UNREADABLE, _remote_errors.pack(error), ()
    try:
        fn, args, kwargs, context = call
        if context is None:
            value = fn(*args, **kwargs)
        else:
            from .._worker import context as _context

            value = _context.run_in(context, fn, *args, **kwargs)
        _calls.check_result(fn, value)
        return RESULT, *_pickling.dumps(_pickling.wrap_large(value), keep)
    except InitializerFailed as error:
        return REFUSED, str(error).encode(errors="replace"), ()
    except BaseException as error:
        return RAISED, _remote_errors.pack(error), ()


def send_items(fn: Callable[..., Iterable[Any]], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Sends what an iterable has, as `pool.stream` runs it."""
    for item in fn(*args, **kwargs):
        _offloop.emit((RESULT, *_pickling.dumps(_pickling.wrap_large(item), keep)))


class InitializerFailed(Exception):
    """Keeps a worker from starting. The text says why."""


def initialise(
    initializer: Callable[..., object] | None,
    args: tuple[Any, ...],
    open_state: Callable[[], Any] | None,
    close_state: Callable[[Any], object] | None,
) -> None:
    """Runs once in each worker, before its first job."""
    if _log is not None:
        # Nobody reads what is sent now: its records are sent with those of the first job.
        _log.job_runs = False
    try:
        if initializer is not None:
            initializer(*args)
        if open_state is not None:
            from .. import _jobs

            _jobs.process_state = _jobs.State(open_state, close_state)
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
"""What a forked template has from its parent without pickling."""


def initialise_inherited() -> None:
    """The same with what was inherited."""
    initialise(*inherited)
