"""Functions that the engines run."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import offloop


def add(a: int, b: int = 0) -> int:
    return a + b


def pid(_: object = None) -> int:
    return os.getpid()


def note(path: str, text: str = "run") -> int:
    """Appends a line to a file: a trace of each run."""
    with open(path, "a") as file:
        file.write(f"{text} {os.getpid()}\n")
    return os.getpid()


def note_and_sleep(path: str, seconds: float = 600) -> None:
    note(path)
    time.sleep(seconds)


def note_and_crash(path: str) -> None:
    note(path)
    os.kill(os.getpid(), signal.SIGKILL)


def crash_once(path: str) -> str:
    """Crashes at its first run."""
    first = not Path(path).exists()
    note(path)
    if first:
        os._exit(7)
    return "survived"


def note_and_wait_for(path: str, other: str) -> str:
    note(path)
    while not Path(other).exists():
        time.sleep(0.01)
    return "done"


class Unfit(Exception):
    """An exception that cannot be unpickled."""

    def __init__(self, a: str, b: str) -> None:
        super().__init__(a)
        self.lock = open(os.devnull)  # noqa: SIM115


class OwnError(Exception):
    pass


def fail(kind: str) -> NoReturn:
    match kind:
        case "value":
            raise ValueError("this value", 7)
        case "own":
            error = OwnError("mine")
            error.add_note("a note")
            raise error
        case "unfit":
            raise Unfit("a", "b")
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case _:
            raise BaseException("base")


def size(data: Any) -> int:
    return len(data)


def double(data: Any) -> Any:
    data += data
    return data



async def asynchronous() -> None: ...


def returns_coroutine() -> Any:
    return asynchronous()


def result_that_cannot_be_pickled() -> Any:
    return threading.Lock()


def variable(name: str) -> str | None:
    return os.environ.get(name)


def request() -> str | None:
    return offloop.request_id.get()
