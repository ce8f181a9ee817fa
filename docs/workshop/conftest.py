"""Runs the service of a step, or another one, for the step's tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest


class Running(NamedTuple):
    """A running service."""

    client: httpx.Client
    fifo: Path
    """What the service reads. A read of it waits until something is written."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--service", type=Path, help="the folder of a service to test in place of the step's own"
    )


@pytest.fixture
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    folder = request.config.getoption("--service") or request.path.parent
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "uvicorn", "service:app", "--port", "0", "--app-dir", str(folder)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"FILE": str(fifo), "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    said = ""
    while (found := re.search(r"running on (http://\S+)", said)) is None:
        line = process.stderr.readline()
        assert line, said
        said += line
    # Nothing waits for room in the pipe.
    draining = threading.Thread(target=process.stderr.read, daemon=True)
    draining.start()
    try:
        with httpx.Client(base_url=found[1], timeout=20) as client:
            yield Running(client, fifo)
    finally:
        # A service that stands still does not notice more than this.
        process.kill()
        process.wait()
        draining.join()
        process.stderr.close()
