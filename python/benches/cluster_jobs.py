"""The jobs of the clusters' bench: functions of a module that workers can import."""

from __future__ import annotations

import os
import time


def noop() -> None:
    pass


def echo(data: bytes) -> bytes:
    return data


def stay(file: str) -> None:
    """Writes down in which process it runs, and stays."""
    with open(file, "a") as starts:
        starts.write(f"{os.getpid()}\n")
    time.sleep(120)
