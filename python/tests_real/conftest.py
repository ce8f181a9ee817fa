"""Tests against real servers. Each is skipped if the variables that name its server are not set:

- OFFLOOP_POSTGRES_URL (postgresql://user@127.0.0.1:port/database),
- OFFLOOP_TARANTOOL_URL (127.0.0.1:port; it runs python/examples/tarantool.lua),
- OFFLOOP_POSTGRES_RESTART, OFFLOOP_TARANTOOL_RESTART: commands for the shell that restart the server and end when
  it answers again.
"""

import faulthandler
import os
from collections.abc import Iterator
from typing import Any

import pytest

HANG = 120.0
"""The seconds after which a test counts as hung: all stacks are printed, and the run ends."""

_stderr = 2


def pytest_configure(config: pytest.Config) -> None:
    global _stderr
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        with capture.global_and_fixture_disabled():
            _stderr = os.dup(2)


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    faulthandler.dump_traceback_later(HANG, exit=True, file=_stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
