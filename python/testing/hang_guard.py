"""A plugin for pytest that ends a run in which a test hangs: it prints the stacks of all threads, and exits.

A `conftest.py` that says `pytest_plugins = ["hang_guard"]` has it.
"""

import faulthandler
import os
from collections.abc import Iterator
from typing import Any

import pytest

HANG = 120.0
"""The seconds after which a test counts as hung."""

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
