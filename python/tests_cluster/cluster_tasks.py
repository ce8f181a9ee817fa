"""The tasks of the workers in these tests."""

from __future__ import annotations

import logging
import os
import time
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


def log(text: str) -> None:
    logging.getLogger("cluster_tasks").warning("%s", text)


def _private() -> None:
    """No task."""


async def waits() -> None:
    """No task either."""
