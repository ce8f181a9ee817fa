"""Generators that run in workers."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import jobs


def count(n: int) -> Iterator[int]:
    yield from range(n)


def count_noting(log: Path) -> Iterator[int]:
    n = 0
    while True:
        jobs.note(log, str(n))
        yield n
        n += 1


def squares(n: int) -> list[int]:
    return [k * k for k in range(n)]


def fail_after(n: int) -> Iterator[int]:
    yield from range(n)
    raise LookupError("after the items")


def exit_after(n: int) -> Iterator[int]:
    yield from range(n)
    os._exit(3)


def hang_after(n: int, started: Path) -> Iterator[int]:
    yield from range(n)
    jobs.hang(started)


def cleaning_up(directory: Path, seconds: float) -> Iterator[int]:
    """Yields numbers until it is ended, with pauses, and leaves files that say that it has begun and cleaned up."""
    (directory / "begun").write_text(str(os.getpid()))
    try:
        for k in itertools.count():
            yield k
            time.sleep(seconds)
    finally:
        jobs.log("ends")
        (directory / "cleaned").touch()


def slowly(n: int) -> Iterator[int]:
    for k in range(n):
        time.sleep(0.01)
        yield k


def large(n: int, size: int) -> Iterator[bytes]:
    for k in range(n):
        yield bytes([k]) * size


def unpicklable() -> Iterator[Any]:
    import threading

    yield 1
    yield threading.Lock()


def print_and_log(n: int) -> Iterator[int]:
    for k in range(n):
        jobs.log(f"record {k}")
        yield k
