"""The future of a submitted call, when something else comes between."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from offloop._pools.futures import Future
from support import jobs


def begin(future: Future[int]) -> None:
    future.set_running_or_notify_cancel()


def end(future: Future[int]) -> None:
    future.set_result(1)


STEPS = pytest.mark.parametrize("step", [begin, end])


class Interrupted(BaseException):
    pass


def interrupt(*_: object) -> None:
    raise Interrupted


def is_free(future: Future[int]) -> bool:
    """Returns whether another thread gets the future's lock."""
    got: list[bool] = []

    def get() -> None:
        got.append(future._condition.acquire(timeout=0.1))
        if got[0]:
            future._condition.release()

    thread = threading.Thread(target=get)
    thread.start()
    thread.join()
    return got[0]


@STEPS
def test_a_signal_that_comes_as_a_futures_lock_is_taken_leaves_the_lock_free(
    step: Callable[[Future[int]], None],
) -> None:
    future: Future[int] = Future()

    def interrupt_taker(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_return" and called.__name__ == "acquire":
            sys.setprofile(None)
            raise Interrupted

    sys.setprofile(interrupt_taker)
    try:
        with pytest.raises(Interrupted):
            step(future)
    finally:
        sys.setprofile(None)
    assert is_free(future)


@STEPS
def test_a_signal_that_comes_while_a_futures_lock_is_awaited_reaches_the_program(
    step: Callable[[Future[int]], None],
) -> None:
    future: Future[int] = Future()
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with future._condition:
            held.set()
            over.wait(jobs.HANG)

    thread = threading.Thread(target=hold)
    thread.start()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        assert held.wait(jobs.HANG)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Interrupted):
            step(future)
    finally:
        signal.signal(signal.SIGALRM, before)
        over.set()
        thread.join()
    assert is_free(future) and not future.done()
