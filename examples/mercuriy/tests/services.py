"""A running service, and ways to use it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

ROOT = Path(__file__).parents[3]
MERCURIY = ROOT / "examples" / "mercuriy"
PATIENCE = 100.0
"""The seconds after which something that must happen has not happened."""


def rust_binary() -> Path | None:
    """Returns the Rust implementation, if it is built: the newest one."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for kind in ("release", "debug") if (path := target / kind / "mercuriy").exists()]
    return max(built, key=lambda path: path.stat().st_mtime, default=None)


class Service:
    """A service in a process of its own, from `with` to the end of its block."""

    def __init__(
        self,
        implementation: str,
        binary: Path | None,
        data: Path,
        options: Sequence[str],
        environment: dict[str, str],
    ) -> None:
        self.implementation = implementation
        self.data = data
        if implementation == "python":
            command = [sys.executable, "-m", "mercuriy"]
        else:
            assert binary is not None, "the Rust implementation is not built: cargo build -p mercuriy"
            command = [str(binary)]
        self._command = [*command, "--port", "0", "--data", str(data), *options]
        self._environment = os.environ | {"PYTHONPATH": str(MERCURIY / "python")} | environment
        self.url = ""

    def __enter__(self) -> Self:
        self.data.mkdir(exist_ok=True)
        self._log = (self.data / "stderr.log").open("ab")
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._log, env=self._environment
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        match = re.fullmatch(
            rf"mercuriy \({self.implementation}\) listens on (http://127\.0\.0\.1:\d+)\n", line
        )
        assert match is not None, (line, self.log())
        self.url = match[1]
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self._log.close()

    # The process.

    def is_running(self) -> bool:
        return self.process.poll() is None

    def log(self) -> str:
        return (self.data / "stderr.log").read_text(errors="replace")

    def log_lines(self) -> list[dict[str, Any]]:
        """Returns the complete lines of the log that are JSON."""
        lines = self.log().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, and returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def workers(self) -> list[int]:
        """Returns the processes that the service has started, and that have started none: its workers."""
        embedded = {system["pid"] for system in self.status()["systems"].values()}
        parents = _parents()
        below = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in below} - below:
            below |= more
        below.discard(self.process.pid)
        return sorted(pid for pid in below - embedded if pid not in parents.values())

    # Requests.

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get("/status").json()
        return answer

    def health(self) -> None:
        answer = self.client.get("/health")
        assert answer.status_code == 200 and answer.json()["ok"] is True

    def walk(self, body: bytes, find: str | None = None, **headers: str) -> httpx.Response:
        parameters = {} if find is None else {"find": find}
        return self.client.post("/documents", content=body, params=parameters, headers=headers)

    def call(
        self, system: str, function: str, *args: Any, timeout_ms: int | None = None, via: str | None = None
    ) -> httpx.Response:
        headers = {} if timeout_ms is None else {"X-Timeout-Ms": str(timeout_ms)}
        parameters = {} if via is None else {"via": via}
        return self.client.post(
            f"/functions/{system}/{function}", json={"args": list(args)}, headers=headers, params=parameters
        )

    def send(self, to: str, function: str, *args: Any) -> httpx.Response:
        return self.client.post("/messages", json={"to": to, "function": function, "args": list(args)})

    def metric(self, name: str) -> float:
        """Returns the value of a metric; 0 if it is not there yet."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[-1])
        return 0.0

    def running(self, system: str) -> int:
        """Returns the number of calls of slow that run on a system."""
        answer = self.call(system, "running")
        assert answer.status_code == 200, answer.text
        count: int = answer.json()["result"]
        return count

    def set_mode(self, on: str) -> None:
        answer = self.client.post("/mode", json={"on": on})
        assert answer.status_code == 200, answer.text

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """Gives a plain connection."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), PATIENCE) as connection:
            yield connection

    def begin(self, connection: socket.socket, path: str, body: bytes, length: int | None = None) -> None:
        """Sends a request of which the body may be incomplete."""
        size = len(body) if length is None else length
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nX-Timeout-Ms: 60000\r\n\r\n"
        connection.sendall(head.encode() + body)


def receive(connection: socket.socket) -> tuple[int, Any]:
    """Returns the status and the JSON of the answer on a plain connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        assert chunk, f"the connection was closed after {received!r}"
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])  # type: ignore[index]
    while len(body) < length:
        chunk = connection.recv(65536)
        assert chunk, "the connection was closed within the body"
        body += chunk
    return int(head.split()[1]), json.loads(body)


def error_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Returns an error, which has this status and code, and is as all errors are."""
    assert answer.status_code == status, answer.text
    return checked_error(answer.json(), code, answer.headers["x-request-id"])


def checked_error(body: Any, code: str, request: str | None = None) -> dict[str, Any]:
    """Returns an error, which has this code, and is as all errors are: with advice, and without anything of
    the inside.
    """
    assert set(body) == {"error"}, body
    error: dict[str, Any] = body["error"]
    assert error["code"] == code, error
    assert error["message"]
    for inside in ("Traceback", ".py", ".rs", "panicked"):
        assert inside not in error["message"]
    if request is not None:
        assert error["request"] == request
    return error


def until(is_so: Callable[[], bool], what: str) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"it never happened that {what}"
        time.sleep(0.02)


@contextmanager
def at_once(count: int) -> Iterator[Callable[..., Future[Any]]]:
    """Gives a function that starts calls on threads, so that they run at once."""
    with ThreadPoolExecutor(count) as threads:
        yield threads.submit


def in_thread(fn: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=fn, daemon=True)
    thread.start()
    return thread


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has just ended


def _parents() -> dict[int, int]:
    """Returns the parents of all processes."""
    parents: dict[int, int] = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(directory.name)] = int(fields[1])
    return parents
