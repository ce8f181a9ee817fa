"""What a message's memory is for Python code that gets hold of it: it is kept, or it is a copy, but it never dangles."""

from __future__ import annotations

import gc
import os
import sys
from types import FrameType, TracebackType
from typing import Any

import pytest
from support import jobs

from offloop import ProcessPoolExecutor

SIZES = pytest.mark.parametrize("size", [100, 8_000, 3_000_000])


class UnreadableElsewhere:
    """Can be unpickled in the process that has pickled it, but not in others."""

    def __init__(self, size: int) -> None:
        self.text = "S" * size

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self.text, os.getpid())


def _make(text: str, pid: int) -> UnreadableElsewhere:
    if os.getpid() != pid:
        raise ValueError("cannot be unpickled here")
    return UnreadableElsewhere(len(text))


def views_in(traceback: TracebackType | None) -> list[memoryview]:
    """Returns views of all memory that the frames' variables export."""
    views = []
    while traceback is not None:
        views += views_of(traceback.tb_frame)
        traceback = traceback.tb_next
    return views


def views_of(frame: FrameType) -> list[memoryview]:
    views = []
    for value in frame.f_locals.values():
        try:
            views.append(memoryview(value))
        except TypeError:
            continue
    return views


@SIZES
def test_the_traceback_of_a_result_that_cannot_be_read_holds_no_memory_of_the_pool(size: int) -> None:
    with ProcessPoolExecutor(1) as pool:
        error = pool.submit(UnreadableElsewhere, size).exception(60)
        assert isinstance(error, ValueError)
        assert not views_in(error.__traceback__)


_stolen: list[tuple[memoryview, bytes]] = []


class Thief:
    """Keeps views of the memory from which it is unpickled."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return _steal, (self.text,)


def _steal(text: str) -> Thief:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        _stolen.extend((view, bytes(view)) for view in views_of(frame))
        frame = frame.f_back
    return Thief(text)


def count_stolen(_: object) -> int:
    return sum(b"SSSS" in content for _, content in _stolen)


@SIZES
def test_a_job_sees_no_frame_that_has_the_memory_of_its_call(size: int) -> None:
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(count_stolen, Thief("S" * size)).result(60) == 0


@SIZES
def test_initial_arguments_of_any_length_reach_every_worker(size: int) -> None:
    with ProcessPoolExecutor(
        1, initializer=jobs.echo, initargs=("S" * size,), max_tasks_per_child=1
    ) as pool:
        assert [pool.submit(jobs.double, n).result(60) for n in range(3)] == [0, 2, 4]
