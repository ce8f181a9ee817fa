"""Jobs that use what is handed over to workers."""

from __future__ import annotations

import os
import signal
import socket
from multiprocessing.reduction import ForkingPickler
from typing import Any, NoReturn


def fill(name: str) -> None:
    """Opens shared memory as a job does that imports the module only now."""
    from multiprocessing import shared_memory

    segment = shared_memory.SharedMemory(name=name)
    segment.buf[0] = 1
    segment.close()


def make() -> str:
    from multiprocessing import shared_memory

    segment = shared_memory.SharedMemory(create=True, size=10)
    segment.close()
    return segment.name


def exists(name: str) -> bool:
    from multiprocessing import shared_memory

    try:
        shared_memory.SharedMemory(name=name).close()
    except FileNotFoundError:
        return False
    return True


def tracker_descriptor() -> int | None:
    from multiprocessing import resource_tracker

    descriptor: int | None = resource_tracker._resource_tracker._fd  # type: ignore[attr-defined]
    return descriptor


def tracker_descriptor_without_files() -> int | None:
    """Does the same when the job has closed all descriptors, as a daemon does."""
    os.closerange(3, 1000)
    return tracker_descriptor()


def wakeup_descriptor() -> int:
    return signal.set_wakeup_fd(-1)


class Handle:
    """Can be pickled by its registered reducer alone."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> NoReturn:
        raise TypeError("only ForkingPickler knows how")


def _reduce(handle: Handle) -> Any:
    return Handle, (handle.number,)


ForkingPickler.register(Handle, _reduce)


def number(handle: Handle) -> int:
    return handle.number


def handle_of(number: int) -> Handle:
    return Handle(number)


def greet(connection: socket.socket) -> None:
    connection.sendall(b"hello")
    connection.close()


def connected(path: str) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    found.connect(path)
    return found


initialised: tuple[Any, ...] = ()


def initialise(*args: Any) -> None:
    global initialised
    initialised = args


def greet_initialised() -> None:
    initialised[0].sendall(b"x")


def increase() -> int:
    value = initialised[0]
    with value.get_lock():
        value.value += 1
        return int(value.value)


def fails_to_unpickle(*_: object) -> NoReturn:
    raise ValueError("not here")


class FailsToUnpickle:
    def __reduce__(self) -> Any:
        return fails_to_unpickle, (1,)
