"""Walks on a cluster: one of the service's own, and one with a worker beside the service. Skipped without a NATS server, which
the requirements of these tests install."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from documents import expected, large
from offloop._cluster.embedded import server_program
from offloop._offloop import EmbeddedServer
from services import MERCURIY, PATIENCE, Service, at_once, error_of, rust_binary

Make = Callable[..., Service]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a server that the service does not own."""
    try:
        server = EmbeddedServer(server_program())
    except OSError as error:
        pytest.skip(str(error))
    assert server.url is not None
    yield server.url
    server.stop()


def check_walks(service: Service) -> None:
    status = service.status()
    assert status["on"] == "cluster" and "cluster" in status["modes"]
    text = large(2)
    walked = service.walk(text, "a.0").json()
    assert walked["on"] == "cluster"
    assert {name: walked[name] for name in expected(text)} == expected(text)
    error = error_of(service.walk(b'{"a": tru'), 400, "truncated")
    assert error["offset"] >= 6
    events = service.walk(b'{"a": [1]}', "a.0", Accept="text/event-stream").text
    assert "event: progress" in events and "event: result" in events and '"found":1' in events
    # A walk that takes too long is ended.
    error_of(service.walk(large(20), **{"X-Timeout-Ms": "20"}), 504, "timeout")
    assert service.walk(b"[]").status_code == 200


def test_documents_are_walked_on_a_cluster_of_the_services_own(
    make_service: Make, implementation: str, tmp_path: Path, url: str
) -> None:
    environment = {"OFFLOOP_CLUSTER_URL": "", "OFFLOOP_NATS_SERVER": str(server_program())}
    with make_service(implementation, tmp_path / "data", "--on", "cluster", **environment) as service:
        check_walks(service)
        # It goes elsewhere, and comes back.
        service.set_mode("threads")
        assert service.walk(b"[]").json()["on"] == "threads"
        service.set_mode("cluster")
        assert service.walk(b"[]").json()["on"] == "cluster"
        assert service.end() in (0, 1)


def test_documents_are_walked_by_workers_that_come_and_go(
    make_service: Make, implementation: str, tmp_path: Path, url: str, request: pytest.FixtureRequest
) -> None:
    if implementation == "python":
        program = [sys.executable, "-m", "offloop", "worker", "mercuriy.elsewhere"]
    else:
        binary = request.config.getoption("--rust-binary") or rust_binary()
        program = [str(binary), "offloop-worker"]

    def work() -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(MERCURIY / "python")}
        options = ["--url", url, "--queue", "mercuriy", "--slots", "1"]
        return subprocess.Popen([*program, *options], env=environment)

    worker = work()
    try:
        options = ("--on", "cluster", "--cluster", url)
        with make_service(implementation, tmp_path / "data", *options) as service:
            check_walks(service)
            worker.terminate()
            assert worker.wait(PATIENCE) == 0
            # Nobody can walk now. The document waits for the next worker.
            with at_once(1) as begin:
                walk = begin(service.walk, b'{"a": 1}')
                service.health()
                assert not walk.done()
                worker = work()
                assert walk.result(PATIENCE).json()["keys"] == 1
    finally:
        worker.terminate()
        worker.wait(PATIENCE)
