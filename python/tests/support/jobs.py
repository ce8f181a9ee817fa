"""Jobs of every kind, and files that put events into an order."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

HANG = 30.0
"""The seconds after which a wait for an event fails."""


def wait_for(path: Path) -> None:
    """Blocks until the file exists."""
    deadline = time.monotonic() + HANG
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} never came")
        time.sleep(0.002)


def until(condition: Any, what: str = "the condition") -> None:
    """Blocks until `condition()` is true."""
    deadline = time.monotonic() + HANG
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} never came true")
        time.sleep(0.002)


def is_gone(pid: int) -> bool:
    """Returns whether a process has ended. A zombie has."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def double(x: int) -> int:
    return 2 * x


def pair(x: Any, y: Any) -> Any:
    return x, y


def echo(value: Any) -> Any:
    return value


def pid() -> int:
    return os.getpid()


class Call:
    """Is unpickled as the result of a call."""

    def __init__(self, fn: Any, *args: Any) -> None:
        self.parts = fn, args

    def __reduce__(self) -> Any:
        return self.parts


def note(path: Path, text: str = "") -> None:
    """Appends a line, so that the file has the jobs in the order in which they ran."""
    with path.open("a") as file:
        file.write(text + "\n")


def hold(started: Path, gate: Path) -> int:
    """Makes a file with its process id when it runs, and waits for the other file."""
    begun(started)
    wait_for(gate)
    return os.getpid()


def fail_when_there_is(gate: Path) -> None:
    wait_for(gate)
    raise ValueError("late")


def die_when_there_is(gate: Path) -> None:
    wait_for(gate)
    os._exit(3)


def begun(path: Path) -> None:
    """Makes the file with this process's id in it, in one step."""
    new = path.with_name(path.name + ".new")
    new.write_text(str(os.getpid()))
    new.rename(path)


def hang(started: Path) -> None:
    """Makes a file when it runs, and never ends by itself."""
    begun(started)
    while True:
        # Not `signal.pause`: a signal that comes just before that would be handled only after the next one.
        time.sleep(0.05)


def sleep_then_write(started: Path, written: Path, seconds: float) -> None:
    begun(started)
    time.sleep(seconds)
    written.touch()


def ignore_sigterm(started: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang(started)


def nice() -> int:
    return os.nice(0)


def surroundings(variable: str) -> tuple[str, str | None, set[int]]:
    return os.getcwd(), os.environ.get(variable), os.sched_getaffinity(0)


def state() -> tuple[int, Any]:
    import offloop

    return os.getpid(), offloop.worker_state()


def note_and_open(path: Path) -> str:
    note(path, f"opened {os.getpid()}")
    return f"state of {os.getpid()}"


def note_and_close(path: Path, opened: str) -> None:
    note(path, f"closed {opened}, in {os.getpid()}")


def discard_state() -> None:
    import offloop

    offloop.discard_worker_state()


def hang_on_cancel(started: Path, called: Path) -> None:
    import offloop

    with offloop.on_cancel(called.touch):
        hang(started)


def fail_with(message: str) -> None:
    raise LookupError(message)


def fail_once(path: Path) -> None:
    """Fails at its first call, in whichever process."""
    open_later(path)


def open_later(path: Path) -> str:
    """Fails at its first call, in whichever process."""
    if not path.exists():
        path.touch()
        raise LookupError("not yet")
    return "open"


def exit_with(code: int) -> None:
    os._exit(code)


def is_imported(module: str) -> tuple[bool, int]:
    """Returns whether a module was imported in this process, and the process that has imported it."""
    import sys

    found: Any = sys.modules.get(module)
    return found is not None, getattr(found, "imported_by", 0)


def environment() -> dict[str, str]:
    return dict(os.environ)


def note_pid(path: Path) -> None:
    note(path, str(os.getpid()))


def clean_up(started: Path, cleaned: Path) -> None:
    """Ends at SIGTERM, and cleans up before."""

    def leave(*_: Any) -> None:
        cleaned.touch()
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    hang(started)


def hold_named(started: Path, gate: Path) -> str:
    hold(started, gate)
    return started.name


def fail_at(value: int, bad: int) -> int:
    if value == bad:
        raise LookupError("five")
    return value


def fail_or_hang(started: Path | None, other: Path | None) -> None:
    if started is None:
        raise LookupError("at once")
    hang(started)


def exit_if_odd(value: int) -> int:
    if value % 2:
        os._exit(1)
    return value


def call_async(value: int) -> Any:
    """Returns a coroutine, although it is not an async function."""
    import asyncio

    return asyncio.sleep(0, value)


def log_and_fill_a_queue(started: Path, gate: Path) -> int:
    """Makes a pool of its own whose full queue makes this process run a call."""
    import logging

    from offloop import ProcessPoolExecutor

    with ProcessPoolExecutor(1, queue_capacity=1, on_full="caller_runs") as pool:
        pool.submit(hold, started, gate)
        wait_for(started)
        pool.submit(pid)
        here = pool.submit(pid).result()
        logging.getLogger("support").warning("after the call")
        gate.touch()
    return here


def log(text: str) -> None:
    import logging

    logging.getLogger("support").warning(text)
