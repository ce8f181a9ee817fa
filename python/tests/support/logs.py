"""What the tests of log records have workers do."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], bool]) -> None:
    """Waits for it, for half a minute at most."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def logs(message: str, *args: object) -> None:
    logging.getLogger("logs").info(message, *args)


def logs_and_waits(gate: str) -> None:
    logging.getLogger("logs").info("waiting")
    until(lambda: os.path.exists(gate))


def attribute_of_main(name: str) -> Any:
    return getattr(sys.modules["__main__"], name)
