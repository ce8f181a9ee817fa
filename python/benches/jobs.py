"""The jobs: functions of a module that worker processes can import."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

PAGE = 4096
MARK = 0xA5


def noop() -> None:
    pass


def process_id() -> int:
    return os.getpid()


def compute(seconds: float) -> None:
    """Keeps a core busy with Python code."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@functools.cache
def some_bytes(length: int) -> bytes:
    """Returns a large value, made once in each worker: fresh pages take longer than any pool does to send them."""
    return bytes([MARK]) * length


@functools.cache
def some_array(length: int) -> numpy.ndarray[Any, numpy.dtype[numpy.float64]]:
    import numpy

    return numpy.full(length // 8, float(MARK))


def count_pages(payload: Any) -> int:
    """Reads one element of each page, so that the whole payload must have arrived."""
    if isinstance(payload, bytes):
        return payload[::PAGE].count(MARK)
    return int((payload[:: PAGE // 8] == MARK).sum())


async def in_a_coroutine(function: Callable[..., Any], *arguments: Any) -> Any:
    """Does the same as a coroutine, for a pool that runs only coroutines."""
    return function(*arguments)
