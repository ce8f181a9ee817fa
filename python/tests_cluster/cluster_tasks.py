"""The tasks of the workers in these tests."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path


def split(text: str) -> list[str]:
    return text.split()


def echo(value: object) -> object:
    return value


def fail(text: str) -> None:
    raise LookupError(text)


def crash() -> None:
    os.abort()


def own_type() -> object:
    return Path("/")


def wait_for(file: str) -> int:
    """Waits until a file is there."""
    path = Path(file)
    path.with_suffix(".begun").touch()
    while not path.exists():
        time.sleep(0.01)
    return os.getpid()


def count(file: str) -> int:
    """Counts the calls with this file."""
    with open(file, "ab", buffering=0) as log:
        log.write(b"x")
    return os.stat(file).st_size


def fails_up_to(starts: int, file: str) -> int:
    """Fails in its first starts, which are counted in a file. Returns the number of this one."""
    with open(file, "a+") as counted:
        counted.write("x")
        counted.seek(0)
        start = len(counted.read())
    if start <= starts:
        raise ValueError(f"start {start} fails")
    return start


def log(text: str) -> None:
    logging.getLogger("cluster_tasks").warning("%s", text)


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def words(text: str) -> list[str]:
    return text.split()


def words_and_fails(text: str) -> Iterator[str]:
    yield from text.split()
    raise LookupError("as planned")


def lengths(text: str) -> Iterator[int]:
    return map(len, text.split())


def held(file: str) -> Iterator[int]:
    """Yields its process id, and goes on when a file is there."""
    yield os.getpid()
    yield wait_for(file)


def endless(directory: str, seconds: float = 0) -> Iterator[int]:
    """Yields numbers until it is ended, and leaves files that say how far it is: `begun`, `ahead`, `cleaned`."""
    path = Path(directory)
    (path / "begun").write_text(str(os.getpid()))
    number = 0
    try:
        while True:
            yield number
            number += 1
            (path / "ahead").write_text(str(number))
            time.sleep(seconds)
    finally:
        # A record does not keep it from cleaning up, although nobody reads any more.
        logging.getLogger("cluster_tasks").warning("ends")
        (path / "cleaned").write_text("cleaned")


def fails_after(count: int) -> Iterator[int]:
    yield from range(count)
    raise LookupError("as planned")


def crashes_after(count: int) -> Iterator[int]:
    yield from range(count)
    os.abort()


def own_types(count: int) -> Iterator[object]:
    for number in range(count):
        yield Path(str(number))


def large(size: int) -> Iterator[bytes]:
    for number in range(3):
        yield bytes([number]) * size


def logs_between(count: int) -> Iterator[int]:
    for number in range(count):
        log(f"record {number}")
        yield number


def _private() -> None:
    """No task."""


async def waits() -> None:
    """No task either."""
