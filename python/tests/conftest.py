"""A watchdog for each test, and a look at what it leaves behind."""

import faulthandler
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

HANG = 90.0
"""Seconds after which a test hangs: all stacks are printed, and the run ends."""

_stderr = 2


def pytest_configure(config: pytest.Config) -> None:
    global _stderr
    # Who is run in the background inherits these ignored, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        return
    with capture.global_and_fixture_disabled():
        _stderr = os.dup(2)


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    faulthandler.dump_traceback_later(HANG, exit=True, file=_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()


def children() -> list[str]:
    """The processes that this one has started, zombies included."""
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                found += file.read().split()
        except OSError:  # the thread has ended
            continue
    return found


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """After each test all that it started is gone: a pool that is dropped lets its workers go in the background."""
    before = set(children())
    yield
    deadline = time.monotonic() + 10
    while left := set(children()) - before:
        assert time.monotonic() < deadline, f"processes left: {left}"
        time.sleep(0.005)
