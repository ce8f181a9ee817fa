"""The start of a template, as its parent prepares it: the program, and what is handed over to it."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
import threading
from typing import Any

from . import main

NAME_OF_PYTHON = r"(python|pypy|graalpy)[0-9.]*[a-z]*"
"""The names by which an interpreter is known where Python is embedded in another program."""


def settings(preparation: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Returns the engine's settings that start a new interpreter as the template.

    `descriptors` are those that the initialisation needs; the template gets them, and the engine takes them over.

    The data hold secrets, such as multiprocessing's authentication key, and may be long. So they go over the template's
    socket: other processes can read its environment and its command line, whose lengths are limited.
    """
    import pickle
    from multiprocessing import spawn, util

    executable = find_executable()
    module: Any = util
    found: dict[str, Any] = {"start_data": pickle.dumps(preparation, 5), "start_files": descriptors}
    # A worker that is not trusted must not be able to make the tracker remove anything.
    if not preparation["as_data"]:
        found["on_request"] = send_tracker
    if is_frozen():
        # The program starts as always, until `multiprocessing.freeze_support()` sees these arguments. That reads its
        # orders from the descriptor, which is the template's socket.
        found["program"] = spawn.get_command_line(pipe_handle=0)
        found["start_preamble"] = pickle.dumps({}, 5) + pickle.dumps(main.FrozenTemplate(), 5)
    else:
        flags: list[str] = module._args_from_interpreter_flags()
        # The current directory may hold anything. Workers have the parent's search path.
        found["program"] = [executable, *_with_safe_path(flags), "-c", _program()]
    return found


def _program() -> str:
    """Returns the template's code. It imports the very package that runs here, and finds the standard library first, since
    it does not put the package's directory on the search path."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    init = os.path.join(package, "__init__.py")
    return (
        # The module `importlib.util` has these functions from there.
        "import sys; from _frozen_importlib import module_from_spec; "
        "from _frozen_importlib_external import spec_from_file_location; "
        f"spec = spec_from_file_location('offloop', {init!r}, submodule_search_locations=[{package!r}]); "
        "package = sys.modules['offloop'] = module_from_spec(spec); spec.loader.exec_module(package); "
        "from offloop._worker.main import main; main()"
    )


def is_frozen() -> bool:
    """Returns whether this program was made by PyInstaller, cx_Freeze or the like: it is its own interpreter."""
    return bool(getattr(sys, "frozen", False))


def find_executable() -> str:
    """Returns the program that runs Python code. Raises RuntimeError if there is none, or it is another program.

    Where Python is embedded, `sys.executable` may be empty, or the program in which it is embedded. Started as a template
    that would run as always, and start itself again.
    """
    from multiprocessing import spawn

    executable = os.fsdecode(spawn.get_executable() or "")
    is_chosen = executable != (sys.executable or "")  # by multiprocessing.set_executable
    if not (executable and (is_chosen or is_frozen() or _is_python(executable))):
        what = f"{executable!r}, which is no Python interpreter" if executable else "empty"
        raise RuntimeError(
            f"no worker processes can be started: sys.executable is {what}, because this interpreter is embedded in "
            "another program. Say where an interpreter with the same packages is, before the first process pool is "
            'made: multiprocessing.set_executable("/path/to/python")'
        )
    return executable


def _is_python(executable: str) -> bool:
    # Only an interpreter's own main function, or a program that imitates it, has a command line.
    if any(sys.orig_argv) and "uwsgi" not in sys.modules:
        return True
    return re.fullmatch(NAME_OF_PYTHON, os.path.basename(executable)) is not None


def refuse_in_a_template() -> None:
    """Raises RuntimeError if this process was started as a template and runs its own program. Called by the pool's
    constructor.

    Otherwise each copy of the program would start further ones, without end.
    """
    if os.environ.get(main.MARKER) != str(os.getppid()) and not _is_meant_as_tracker():
        return
    if is_frozen():
        advice = (
            "call multiprocessing.freeze_support() first, right under `if __name__ == \"__main__\":`, "
            "before anything else runs"
        )
    else:
        advice = (
            f"its sys.executable, {sys.executable!r}, is no Python interpreter; say where one is: "
            'multiprocessing.set_executable("/path/to/python")'
        )
    raise RuntimeError(
        f"this program was started again for its own worker processes, but runs as always: {advice}"
    )


@functools.cache
def _is_meant_as_tracker() -> bool:
    """Returns whether this process was started as multiprocessing's resource tracker, which makes no pools."""
    try:
        with open("/proc/self/cmdline", "rb") as command:
            return b"from multiprocessing.resource_tracker import main" in command.read()
    except OSError:
        return False


def send_tracker(asker: int) -> None:
    """Sends a worker the descriptor of multiprocessing's resource tracker, over the socket `asker`, which it closes.

    Sends none if there is no tracker. Called by the engine, on a thread of its own.
    """
    import socket

    with socket.socket(fileno=asker) as answering:
        answering.settimeout(None)  # there may be a default one
        tracker = tracker_descriptor()
        try:
            # A worker that has ended meanwhile is not there to read it.
            with contextlib.suppress(OSError):
                socket.send_fds(answering, [b"!"], [] if tracker is None else [tracker])
        finally:
            if tracker is not None:
                os.close(tracker)


def tracker_descriptor() -> int | None:
    """Returns a copy of the descriptor of multiprocessing's resource tracker, which is started if need be.

    Without it a worker that opens shared memory would have a tracker of its own, which removes the memory when the worker
    ends, although this process still uses it. None if the tracker cannot be started, or must not.
    """
    from multiprocessing import resource_tracker, util

    tracker: Any = resource_tracker._resource_tracker  # pyright: ignore[reportPrivateUsage]
    # The tracker of a frozen program is the program itself, which may not know what it was started for.
    if tracker._fd is None and is_frozen():
        return None
    # Starting the tracker unblocks signals that the program may have blocked.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    module: Any = util
    with _starting_tracker:
        flags = module._args_from_interpreter_flags
        # The tracker must not search the current directory, which may hold anything, either. Another process that is
        # started meanwhile has the search path of its parent in any case.
        module._args_from_interpreter_flags = lambda: _with_safe_path(flags())
        try:
            return os.dup(tracker.getfd())
        except Exception:
            return None
        finally:
            module._args_from_interpreter_flags = flags
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_starting_tracker = threading.Lock()


def _with_safe_path(flags: list[str]) -> list[str]:
    """Returns flags with which an interpreter does not search the current directory, or that of its script."""
    return flags if sys.flags.safe_path else ["-P", *flags]


class Handover:
    """Stands for the process that multiprocessing starts, while arguments for its workers are pickled.

    Some objects, such as locks, can be pickled only meanwhile. The descriptors of others go to the template, and each
    worker inherits them.
    """

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        """Copies of the descriptors, in the order of their numbers."""

    def duplicate_for_child(self, descriptor: int) -> int:
        """Returns the number of the descriptor for `DupFd`."""
        self.descriptors.append(os.dup(descriptor))
        return len(self.descriptors) - 1

    @staticmethod
    def DupFd(number: int) -> main.InheritedFd:
        """Returns what the worker gets the descriptor from."""
        return main.InheritedFd(number)


def coverage_configuration() -> str | None:
    """Returns the configuration file of coverage, if that is to measure processes of multiprocessing, as workers are."""
    from multiprocessing import process

    # With `concurrency = multiprocessing` it replaces the method that runs a process.
    process_type: Any = process.BaseProcess
    module: object = process_type._bootstrap.__module__
    is_measured = str(module).partition(".")[0] == "coverage"
    return os.environ.get("COVERAGE_RCFILE") if is_measured else None
