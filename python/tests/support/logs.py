"""Jobs that log records."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds, for at most half a minute."""
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


def logs_many(count: int) -> None:
    for number in range(count):
        logging.getLogger("logs").info("%d", number)


def logs_at(name: str, level: int, message: str) -> None:
    logging.getLogger(name).log(level, message)


def logs_and_sleeps() -> None:
    logging.getLogger("logs").info("sleeping")
    time.sleep(1000)
