"""Runs the service of a step, or another one, for the step's tests."""

from __future__ import annotations

import contextlib
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
from system import System


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
    with _address(process) as address, httpx.Client(base_url=address, timeout=20) as client:
        yield Running(client, fifo)


@contextlib.contextmanager
def _address(process: subprocess.Popen[str]) -> Iterator[str]:
    """Gives the address of a service, once it listens. Ends it at the end of the block."""
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
        yield found[1]
    finally:
        # A service that stands still does not notice more than this.
        process.kill()
        process.wait()
        draining.join()
        process.stderr.close()


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    """The system that the service asks. To be named before the service, which is told its address."""
    system = System()
    monkeypatch.setenv("SYSTEM", system.address)
    yield system
    system.close()


@pytest.fixture
def patient_service(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Running:
    """A service whose calls of the system have more time than any test."""
    monkeypatch.setenv("TIMEOUT", "1000")
    running: Running = request.getfixturevalue("service")
    return running


class Program(NamedTuple):
    """A service that runs as its users run it."""

    client: httpx.Client
    process: subprocess.Popen[str]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Program]:
    """The service, started by its own name: `python service.py`."""
    monkeypatch.setenv("TIMEOUT", "1000")
    monkeypatch.setenv("PORT", "0")
    folder = request.config.getoption("--service") or request.path.parent
    process = subprocess.Popen(
        [sys.executable, str(folder / "service.py")], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    with _address(process) as address, httpx.Client(base_url=address, timeout=20) as client:
        yield Program(client, process)
