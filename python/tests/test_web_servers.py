"""The adapters for web frameworks in real services: real servers, clients that go away, and signals."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from support import jobs, scripts

UVICORN = ["uvicorn", "--port", "0"]
GUNICORN = ["gunicorn", "--bind", "127.0.0.1:0", "--access-logfile", "-"]
COMMANDS: dict[str, list[str]] = {
    "uvicorn": UVICORN,
    "uvicorn-h11": [*UVICORN, "--http", "h11", "--loop", "asyncio"],
    "uvicorn-workers": [*UVICORN, "--workers", "2"],
    "uvicorn-reload": [*UVICORN, "--reload"],
    "gunicorn": [*GUNICORN, "--worker-class", "asgi", "--workers", "2"],
    "gunicorn-preload": [*GUNICORN, "--worker-class", "asgi", "--workers", "2", "--preload"],
    "gunicorn-uvicorn": [*GUNICORN, "--worker-class", "uvicorn_worker.UvicornWorker", "--preload"],
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:0"],
    "hypercorn-workers": ["hypercorn", "--bind", "127.0.0.1:0", "--workers", "2"],
}
NEEDED = {"gunicorn-uvicorn": ["gunicorn", "uvicorn_worker"]}
FRAMEWORKS = ["starlette", "fastapi", "django", "aiohttp"]


def service(server: str, framework: str = "starlette") -> Any:
    """Returns a parameter of a test, which is skipped if a package is missing."""
    packages = [*NEEDED.get(server, [server.partition("-")[0]]), framework]
    missing = [package for package in packages if find_spec(package) is None]
    skip = pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")
    return pytest.param(server, framework, id=f"{server}-{framework}", marks=skip)


SERVICES = [
    service("uvicorn"),
    service("uvicorn-h11", "fastapi"),
    service("uvicorn", "django"),
    service("uvicorn-workers"),
    service("uvicorn-reload"),
    service("gunicorn"),
    service("gunicorn-preload", "django"),
    service("gunicorn-uvicorn"),
    service("hypercorn"),
    service("hypercorn-workers", "fastapi"),
    service("aiohttp", "aiohttp"),
]


class Service:
    """A service in a session of its own."""

    def __init__(self, server: str, framework: str, directory: Path, *options: str, **variables: str):
        self.directory = directory
        ours = framework in FRAMEWORKS
        application = f"support.web.on_{framework}" if ours else framework
        if server == "aiohttp":
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = str(free.getsockname()[1])
            command = [application, port]
        else:
            command = [*COMMANDS[server], *options, f"{application}:app"]
        self.log = directory / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **scripts.environment(),
                    "OFFLOOP_TEST_DIRECTORY": str(directory),
                    "OFFLOOP_TEST_DRAIN": "3",
                    **variables,
                },
                cwd=directory,
                start_new_session=True,
            )
        jobs.until(lambda: self.address() or self.process.poll() is not None, "the start")
        assert self.process.poll() is None, self.log.read_text()
        self.port = int(port) if server == "aiohttp" else self.address()
        if ours:
            self.get("/pids")

    def address(self) -> int:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.log.read_text())
        return int(found[1]) if found else 0

    def request(
        self, path: str, method: str = "GET", body: Any = None
    ) -> tuple[int, dict[str, str], str]:
        deadline = time.monotonic() + jobs.HANG
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=jobs.HANG)
            try:
                connection.request(method, path, body=body, headers={"connection": "close"})
                response = connection.getresponse()
                headers = {name.lower(): value for name, value in response.getheaders()}
                return response.status, headers, response.read().decode()
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)
            finally:
                connection.close()

    def get(self, path: str) -> str:
        status, _, text = self.request(path)
        assert status == 200, self.log.read_text()
        return text

    def begin(self, path: str) -> socket.socket:
        """Sends a request, and returns the connection on which the response comes."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=jobs.HANG)
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return connection

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Waits for the end of the service, and checks that it leaves no process."""
        try:
            code = self.process.wait(timeout=2 * jobs.HANG)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the service does not end:\n{self.log.read_text()}")
        jobs.until(lambda: not scripts.members(self.process.pid), "the end of its processes")
        return code

    def kill(self) -> None:
        for pid in scripts.members(self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.kill()
        self.process.wait()

    def file(self, name: str) -> Path:
        return self.directory / name


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts services, which are killed after the test."""
    services: list[Service] = []

    def begin(server: str, framework: str, *options: str, **variables: str) -> Service:
        services.append(Service(server, framework, tmp_path, *options, **variables))
        return services[-1]

    yield begin
    for each in services:
        each.kill()


@pytest.mark.parametrize(("server", "framework"), SERVICES)
def test_a_service_cancels_answers_measures_and_drains(
    server: str, framework: str, start: Any
) -> None:
    running: Service = start(server, framework)

    # The job of a client that goes away is killed, or asked to stop.
    with running.begin("/hang"):
        jobs.wait_for(running.file("hangs"))
        worker = int(running.file("hangs").read_text())
        assert not jobs.is_gone(worker)
    jobs.until(lambda: jobs.is_gone(worker), "the end of the job in a process")
    with running.begin("/hang_in_thread"):
        jobs.wait_for(running.file("thread"))
        assert not running.file("thread.stopped").exists()
    jobs.wait_for(running.file("thread.stopped"))

    # Errors of pools are answered.
    status, headers, _ = running.request("/full")
    assert (status, headers["retry-after"]) == (503, "3")
    assert running.request("/late")[0] == 504

    # Metrics are served: those of the process that answers.
    def are_served() -> bool:
        status, headers, text = running.request("/metrics")
        assert (status, headers["content-type"]) == (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        return 'offloop_jobs_total{pool="offloop",kind="processes",outcome="completed"}' in text

    jobs.until(are_served)

    # At the end jobs have time, but not forever, and no process is left.
    running.get("/leave")
    jobs.wait_for(running.file("slow.begun"))
    running.signal(signal.SIGTERM)
    running.wait()
    log = running.log.read_text()
    # As soon as one of its workers has ended, hypercorn kills the others.
    assert running.file("slow").exists() or server == "hypercorn-workers", log
    assert "Traceback" not in log, log


ON = pytest.mark.parametrize


@ON(("server", "framework"), [service("uvicorn"), service("uvicorn-h11"), service("hypercorn")])
def test_bodies_streams_and_background_tasks_work_as_without_the_middleware(
    server: str, framework: str, start: Any
) -> None:
    running: Service = start(server, framework)

    # A large body, in pieces that come slowly.
    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 100_000
            time.sleep(0.01)

    assert running.request("/upload", "POST", b"x" * 5_000_000)[2] == "5000000"
    assert running.request("/upload", "POST", pieces())[2] == "2000000"

    # A stream, whole and interrupted.
    assert running.get("/stream") == "0\n1\n2\n"
    with running.begin("/stream?forever"):
        jobs.wait_for(running.file("hangs"))
        worker = int(running.file("hangs").read_text())
    jobs.until(lambda: jobs.is_gone(worker), "the end of the stream's job")

    # The client gets its response and leaves, and the background task goes on.
    assert running.get("/later") == "now"
    jobs.wait_for(running.file("later"))

    # Many requests over one connection, and many connections.
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=jobs.HANG)
    for _ in range(50):
        connection.request("GET", "/stream")
        assert connection.getresponse().read() == b"0\n1\n2\n"
    connection.close()
    threads = [threading.Thread(target=running.get, args=("/stream",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    running.signal(signal.SIGTERM)
    running.wait()
    assert "Traceback" not in running.log.read_text(), running.log.read_text()


@ON(("server", "framework"), [service("uvicorn")])
def test_a_service_that_is_interrupted_twice_ends_at_once(
    server: str, framework: str, start: Any
) -> None:
    running: Service = start(server, framework, OFFLOOP_TEST_DRAIN="600")
    running.get("/leave")
    with running.begin("/hang_in_thread"):
        jobs.wait_for(running.file("thread"))
        running.signal(signal.SIGINT)
        jobs.until(lambda: "Waiting for connections" in running.log.read_text())
        running.signal(signal.SIGINT)
    # uvicorn waits for its connections nevertheless.
    running.wait()


@ON(("server", "framework"), [service("uvicorn"), service("uvicorn-h11")])
def test_handlers_that_the_server_cancels_at_its_end_cancel_their_jobs(
    server: str, framework: str, start: Any
) -> None:
    running: Service = start(server, framework, "--timeout-graceful-shutdown", "1")
    with running.begin("/hang"):
        jobs.wait_for(running.file("hangs"))
        running.signal(signal.SIGINT)
        running.wait()
    assert jobs.is_gone(int(running.file("hangs").read_text()))


def pids(running: Service) -> list[int]:
    """Returns the ids of a process of the server and of its pool's workers."""
    found: list[int] = eval(running.get("/pids"))
    return found


def renewed(running: Service, old: list[int]) -> list[int]:
    """Waits until other processes answer, and the old ones have ended."""
    deadline = time.monotonic() + 2 * jobs.HANG
    while True:
        try:
            new = pids(running)
        except (OSError, http.client.HTTPException):
            new = old
        if not set(new) & set(old) and all(map(jobs.is_gone, old)):
            return new
        assert time.monotonic() < deadline, running.log.read_text()
        time.sleep(0.2)


@ON(
    ("server", "framework"),
    [
        service("uvicorn-workers"),
        service("gunicorn"),
        service("gunicorn-preload"),
        service("gunicorn-uvicorn"),
        service("hypercorn-workers"),
    ],
)
def test_a_hangup_replaces_the_processes_and_the_workers_of_their_pools(
    server: str, framework: str, start: Any
) -> None:
    running: Service = start(server, framework)
    old = pids(running)
    running.signal(signal.SIGHUP)
    new = renewed(running, old)
    # A worker of the server that is killed takes the workers of its pools along.
    os.kill(new[0], signal.SIGKILL)
    if server.startswith("hypercorn"):
        # It ends with the first of them, and hangs if it is asked to end just then: the handler of the signal takes
        # the lock that the code it interrupts holds.
        jobs.until(lambda: all(map(jobs.is_gone, new)))
    else:
        renewed(running, new)
        running.signal(signal.SIGTERM)
    running.wait()


@ON(("server", "framework"), [service("uvicorn-reload")])
def test_a_reload_leaves_no_workers(server: str, framework: str, start: Any) -> None:
    running: Service = start(server, framework)
    old = pids(running)
    deadline = time.monotonic() + jobs.HANG
    # The reloader may not watch yet.
    while not all(map(jobs.is_gone, old)):
        assert time.monotonic() < deadline, running.log.read_text()
        running.file("changed.py").write_text(f"# {time.monotonic()}")
        time.sleep(0.3)
    renewed(running, old)
    running.signal(signal.SIGINT)
    running.wait()


@ON(("server", "framework"), [service("gunicorn-preload"), service("gunicorn-uvicorn")])
def test_a_preloaded_application_may_have_used_the_shared_pools_but_no_pool_of_its_own(
    server: str, framework: str, start: Any
) -> None:
    running: Service = start(server, framework, OFFLOOP_TEST_PRELOAD="1")
    assert len(pids(running)) > 1
    status, _, text = running.request("/preloaded")
    assert status == 500 and text.startswith("PoolClosed(") and "fork" in text
    running.signal(signal.SIGTERM)
    running.wait()


@pytest.mark.skipif(not all(map(find_spec, ("fastapi", "uvicorn"))), reason="needs fastapi, uvicorn")
@ON("source", ["docs/in-a-web-service.md", "python/examples/web_service.py"])
def test_the_services_of_the_guide_and_of_the_examples_run(
    source: str, start: Any, tmp_path: Path
) -> None:
    code = (Path(__file__).parents[2] / source).read_text()
    if source.endswith(".md"):
        code = code.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "service.py").write_text(code)
    running: Service = start("uvicorn", "service")
    assert running.get("/primes?limit=100") == "25"
    assert running.request("/metrics")[0] == 200
    with running.begin("/primes?limit=90000000"):
        is_busy = 'offloop_workers{pool="offloop",kind="processes",state="busy"} 1'
        jobs.until(lambda: is_busy in running.get("/metrics"))
    is_cancelled = 'offloop_jobs_total{pool="offloop",kind="processes",outcome="cancelled"} 1'
    jobs.until(lambda: is_cancelled in running.get("/metrics"))
    running.signal(signal.SIGINT)
    running.wait()
