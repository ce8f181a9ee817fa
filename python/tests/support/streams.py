"""What the tests of streams and logs have workers do."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any


def until(condition: Callable[[], bool]) -> None:
    """Waits for it, for half a minute at most."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def settled(progress: Path) -> int:
    """What a file says when it says the same for a while."""
    reached, since = -1, time.monotonic()
    while time.monotonic() - since < 0.2:
        now = int(progress.read_text() or 0) if progress.exists() else 0
        if now != reached:
            reached, since = now, time.monotonic()
        time.sleep(0.005)
    return reached


def count_in_file(path: str, end: int) -> Iterator[int]:
    for number in range(end):
        Path(path).write_text(str(number + 1))
        yield number


def fails_after(count: int) -> Iterator[int]:
    yield from range(count)
    raise ValueError(f"after {count}")


def dies_after(count: int) -> Iterator[int]:
    yield from range(count)
    # So that the last has been taken.
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)


def one_and_no_more() -> Iterator[int]:
    yield 1
    time.sleep(3600)


async def async_items() -> AsyncIterator[int]:
    yield 1


def arrays(count: int, size: int) -> Iterator[Any]:
    import numpy

    for number in range(count):
        yield numpy.full(size, number)


def logs(message: str, *args: object) -> None:
    logging.getLogger("streams").info(message, *args)


def logs_and_waits(gate: str) -> None:
    logging.getLogger("streams").info("waiting")
    until(lambda: os.path.exists(gate))


def attribute_of_main(name: str) -> Any:
    return getattr(sys.modules["__main__"], name)
