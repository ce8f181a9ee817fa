"""Jobs that fork, and what a child of the program does with the program's results."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import jobs

held: Any = None
"""The result that a child drops."""


def letters(letter: str, count: int) -> Any:
    import numpy

    return numpy.full(count, ord(letter), dtype=numpy.uint8)


def length(data: Any) -> int:
    return len(data)


def let_go(_number: int) -> None:
    global held
    held = None


def keep_in_a_child(data: Any, gate: Path, seen: Path) -> int:
    """Forks. The child waits for the gate, then writes which bytes its argument has, and changes them."""
    child = os.fork()
    if child:
        return child
    try:
        jobs.wait_for(gate)
        found = bytes(sorted(set(bytes(memoryview(data)))))
        data[:] = bytes(len(data)) if isinstance(data, bytearray) else 0
        part = seen.with_suffix(".part")
        part.write_bytes(found)
        part.rename(seen)
    finally:
        os._exit(0)


def from_both(count: int, size: int) -> Iterator[bytes]:
    """Forks. Both processes go on with the job's items: w from the worker, c from its child."""
    child = os.fork()
    letter = b"w" if child else b"c"
    for _ in range(count):
        yield letter * size
    if child:
        os.waitpid(child, 0)
