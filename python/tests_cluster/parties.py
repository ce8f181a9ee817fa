"""Workers and executors of the tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offloop import ClusterExecutor

HERE = Path(__file__).parent
GUARD = 60.0
"""A generous bound for what takes milliseconds."""


class Worker:
    """A process `offloop worker`."""

    def __init__(self, url: str, *words: str, directory: Path = HERE) -> None:
        command = [sys.executable, "-m", "offloop", "worker", "--url", url, "--slots", "2", *words]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, cwd=directory, env=environment, stderr=subprocess.PIPE, text=True
        )
        self.banner = self.line()

    def line(self) -> str:
        """Waits for the next line that the worker writes."""
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def stop(self) -> tuple[int, str]:
        """Drains it, and returns the exit code and what it has written."""
        self.process.send_signal(signal.SIGTERM)
        _, written = self.process.communicate(timeout=GUARD)
        return self.process.returncode, written


StartWorker = Callable[..., Worker]


@contextmanager
def executor(url: str, **settings: Any) -> Iterator[ClusterExecutor]:
    """Opens an executor. At the end it waits for no job, so that a test that fails does not wait either."""
    pool = ClusterExecutor(url, **settings)
    try:
        yield pool
    finally:
        pool.shutdown(drain=0.0)
