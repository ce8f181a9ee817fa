"""Programs and servers that tests look at by the live view."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import jobs, scripts


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=jobs.HANG)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(jobs.HANG)
        self.sock.connect(self._path)


def request(place: str, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
    """Sends a request to a socket or to an address. Returns the status, and the JSON or the text."""
    if place.startswith("/"):
        connection: http.client.HTTPConnection = _UnixConnection(place)
    else:
        connection = http.client.HTTPConnection(place, timeout=jobs.HANG)
    with contextlib.closing(connection):
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        text = response.read().decode()
    is_json = response.headers.get_content_type() == "application/json"
    return response.status, json.loads(text) if is_json else text


def get(place: str, path: str = "/snapshot", **headers: str) -> Any:
    status, document = request(place, path, **headers)
    assert status == 200, document
    return document


def running_jobs(snapshot: Any) -> list[Any]:
    return [job for pool in snapshot["pools"] for job in pool["jobs"]]


class Sockets:
    """A directory for the sockets of the programs of one test."""

    def __init__(self) -> None:
        # The path of a socket must be short.
        self.directory = Path(tempfile.mkdtemp(prefix="ol"))

    @property
    def environment(self) -> dict[str, str]:
        return {"XDG_RUNTIME_DIR": str(self.directory)}

    def all(self) -> dict[int, str]:
        """Returns the sockets by the processes that have made them."""
        found = (self.directory / "offloop").glob("*.sock")
        return {int(path.stem): str(path) for path in found}

    def of(self, pid: int) -> str:
        """Returns the socket of a process, when it is there and answers."""

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return pid in self.all() and request(self.all()[pid], "/snapshot")[0] == 200
            return False

        jobs.until(answers, f"the view of process {pid}")
        return self.all()[pid]


@contextlib.contextmanager
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    try:
        yield made
    finally:
        shutil.rmtree(made.directory, ignore_errors=True)


@contextlib.contextmanager
def program(code: str, directory: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a program in a session of its own, and kills that at the end."""
    script = directory / "program.py"
    script.write_text(textwrap.dedent(code))
    running = subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**scripts.environment(), **variables},
        start_new_session=True,
    )
    try:
        yield running
    finally:
        for pid in scripts.members(running.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        running.kill()
        if running.stderr is not None and not running.stderr.closed:
            print(running.communicate()[1])


def line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def until_seen(look: Callable[[], Any], is_there: Callable[[Any], Any], what: str = "what is looked for") -> Any:
    """Looks until `is_there(look())`. Returns what was seen then."""
    seen: list[Any] = []

    def is_seen() -> Any:
        seen[:] = [look()]
        return is_there(seen[0])

    jobs.until(is_seen, what)
    return seen[0]
