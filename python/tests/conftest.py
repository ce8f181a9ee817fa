"""A check that a test leaves no processes behind, and the end of the shared pools for those that use them."""

import os
import signal
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import offloop
import pytest
from offloop._pools import default

pytest_plugins = ["hang_guard"]


def pytest_configure(config: pytest.Config) -> None:
    # A program in the background inherits these signals as ignored, and so would all programs that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def children() -> list[str]:
    """Returns the processes that this one has started, zombies included, without multiprocessing's resource tracker."""
    tracker: Any = resource_tracker._resource_tracker  # type: ignore[attr-defined]
    found = []
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                found += file.read().split()
        except OSError:  # the thread has ended
            continue
    return [child for child in found if child != str(tracker._pid)]


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Checks that the test's processes end. A dropped pool ends its workers in the background, so it waits for them."""
    before = set(children())
    yield
    deadline = time.monotonic() + 10
    while left := set(children()) - before:
        assert time.monotonic() < deadline, f"processes left: {left}"
        time.sleep(0.005)


@pytest.fixture
def shared_pools_end(no_process_is_left: None) -> Iterator[None]:
    """Ends the shared pools after the test, and makes them as always again."""
    yield
    if default._coming is not None:
        default.processes()
    for pool in default.take():
        pool.shutdown()
    offloop.configure(threads=default._make_threads, processes=default._make_processes)
