"""The live view, and the ids of requests, in web services: on real servers, with several processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import jobs, view
from test_web_servers import SERVICES, Service, service
from test_web_servers import start as start  # the fixture

ON = pytest.mark.parametrize
OBSERVED = {"OFFLOOP_TEST_OBSERVE": "", "OFFLOOP_SERVICE": "the-service"}


@pytest.fixture
def sockets() -> Iterator[view.Sockets]:
    with view.sockets() as made:
        yield made


def look(running: Service, path: str = "/offloop/service", **headers: str) -> Any:
    return view.get(f"127.0.0.1:{running.port}", path, **headers)


@ON(("server", "framework"), [service("uvicorn-workers"), service("gunicorn"), service("gunicorn-preload")])
def test_the_processes_of_a_service_are_seen_in_one_view(
    server: str, framework: str, start: Any, sockets: view.Sockets
) -> None:
    running: Service = start(server, framework, **OBSERVED, **sockets.environment)

    def pids(document: Any) -> set[int]:
        return {each["process"]["pid"] for each in document["processes"]}

    def serve() -> Any:
        # Each process has a pool once it has served such a request.
        serving = set()
        for _ in range(8):
            serving.add(eval(running.get("/pids"))[0])
        document = look(running)
        return document if len(serving) > 1 and pids(document) >= serving else None

    document = view.until_seen(serve, lambda document: document, "both processes")
    assert {each["process"]["service"] for each in document["processes"]} == {"the-service"}
    assert document["missing"] == []
    with_pools = [each for each in document["processes"] if each["pools"]]
    assert len(with_pools) >= 2
    for each in with_pools:
        assert each["loops"], each
        assert each["process"]["may_cancel"]
    # A worker of a pool that is killed is seen with its service's process, whichever of them answers.
    victim = next(
        worker["pid"] for pool in with_pools[0]["pools"] for worker in pool["workers"] if worker["pid"] is not None
    )
    os.kill(victim, signal.SIGKILL)

    def deaths() -> list[int]:
        return [death["pid"] for each in look(running)["processes"] for death in each["deaths"]]

    view.until_seen(deaths, lambda found: victim in found, "the death")
    running.signal(signal.SIGTERM)
    running.wait()
    assert sockets.all() == {}


@ON(("server", "framework"), [service("uvicorn-workers")])
def test_a_job_of_another_process_of_the_service_can_be_looked_into_and_cancelled(
    server: str, framework: str, start: Any, sockets: view.Sockets
) -> None:
    running: Service = start(server, framework, **OBSERVED, **sockets.environment)
    address = f"127.0.0.1:{running.port}"
    with running.begin("/hang") as client:

        def busy() -> list[tuple[int, Any]]:
            return [
                (each["process"]["pid"], job)
                for each in look(running)["processes"]
                for job in view.running_jobs(each)
                if job["name"].endswith("hang")
            ]

        [(pid, job)] = view.until_seen(busy, len, "the job")
        assert job["request"] is not None
        # Over and over, so that each process has answered.
        for _ in range(8):
            view.until_seen(
                lambda: view.get(address, f"/offloop/jobs/{pid}/{job['id']}/stack"),
                lambda stack: any(frame["function"] == "hang" for frame in stack["frames"]),
                "the job's function",
            )
        path = f"/offloop/jobs/{pid}/{job['id']}/cancel"
        assert view.request(address, path, "POST", X_Offloop="1")[0] == 202
        client.settimeout(jobs.HANG)
        assert client.recv(64).startswith(b"HTTP/1.1 ")
        # Its worker takes a moment to die.
        view.until_seen(busy, lambda found: not found, "the end of the job")
    running.signal(signal.SIGTERM)
    running.wait()


@ON(
    ("server", "framework"),
    [service("uvicorn"), service("uvicorn-h11"), service("hypercorn"), service("aiohttp", "aiohttp")],
)
def test_a_service_ends_although_somebody_looks_on(
    server: str, framework: str, start: Any, sockets: view.Sockets
) -> None:
    running: Service = start(server, framework, **OBSERVED, **sockets.environment)
    with contextlib.closing(running.begin("/offloop/events?every=0.2")) as client:
        lines = client.makefile("rb")
        documents = []
        while len(documents) < 3:
            line = lines.readline()
            if line.startswith(b"data: "):
                documents.append(json.loads(line.removeprefix(b"data: ")))
        assert all(document["processes"][0]["loops"] for document in documents)
        began = time.monotonic()
        running.signal(signal.SIGTERM)
        running.wait()
        assert time.monotonic() - began < jobs.HANG
    assert "Traceback" not in running.log.read_text(), running.log.read_text()


@ON(("server", "framework"), [service("uvicorn"), service("aiohttp", "aiohttp")])
def test_a_viewer_that_goes_away_is_noticed(
    server: str, framework: str, start: Any, sockets: view.Sockets
) -> None:
    running: Service = start(server, framework, **OBSERVED, **sockets.environment)

    def connections() -> int:
        with open(f"/proc/{running.process.pid}/net/tcp") as file:
            local = f"0100007F:{running.port:04X}"
            established = "01", "08"  # also half closed
            return sum(line.split()[1] == local and line.split()[3] in established for line in file)

    for _ in range(3):
        client = running.begin("/offloop/events?every=60")
        assert client.recv(16).startswith(b"HTTP/1.1 200")
        client.close()
    jobs.until(lambda: connections() == 0, "the end of the connections")
    running.signal(signal.SIGTERM)
    running.wait()


@ON(("server", "framework"), [service("uvicorn"), service("aiohttp", "aiohttp")])
def test_the_page_is_served_to_this_machine_alone_unless_there_is_a_token(
    server: str, framework: str, start: Any, sockets: view.Sockets
) -> None:
    running: Service = start(server, framework, **OBSERVED, **sockets.environment)
    address = f"127.0.0.1:{running.port}"
    status, headers, text = running.request("/offloop/")
    assert status == 200 and headers["content-type"] == "text/html; charset=utf-8" and "<html" in text
    assert "default-src 'none'" in headers["content-security-policy"]
    # Relative addresses of the page need the slash.
    status, headers, _ = running.request("/offloop?token=x")
    assert (status, headers["location"]) == (308, "offloop/?token=x")
    for header in ("X_Forwarded_For", "Forwarded", "X_Real_IP"):
        status, answer = view.request(address, "/offloop/snapshot", **{header: "10.0.0.7"})
        assert status == 403 and "token" in answer["error"]
    assert view.request(address, "/offloop/snapshot", Host="evil.example")[0] == 403
    assert view.request(address, "/offloop/nothing")[0] == 404
    assert view.request(address, "/offloopy")[0] == 404
    running.kill()

    variables = {**OBSERVED, **sockets.environment, "OFFLOOP_TEST_OBSERVE": "s3cret"}
    with_token: Service = start(server, framework, **variables)
    address = f"127.0.0.1:{with_token.port}"
    assert view.request(address, "/offloop/snapshot")[0] == 401
    assert view.get(address, "/offloop/snapshot", Authorization="Bearer s3cret", X_Forwarded_For="10.0.0.7")
    assert view.get(address, "/offloop/snapshot?token=s3cret")


@ON(("server", "framework"), [service("uvicorn")])
def test_without_a_path_there_is_no_view(server: str, framework: str, start: Any, sockets: view.Sockets) -> None:
    running: Service = start(server, framework, **sockets.environment)
    assert running.request("/offloop/")[0] == 404
    assert sockets.all() == {}


ONE_OF_EACH = "uvicorn-starlette", "uvicorn-django", "aiohttp-aiohttp"


@ON(("server", "framework"), [each for each in SERVICES if each.id in ONE_OF_EACH])
def test_each_request_has_an_id_that_its_jobs_and_its_response_have(
    server: str, framework: str, start: Any
) -> None:
    running: Service = start(server, framework)

    def ids(given: str | None) -> tuple[str, list[str]]:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=jobs.HANG)
        with contextlib.closing(connection):
            connection.request("GET", "/request", headers={} if given is None else {"X-Request-ID": given})
            response = connection.getresponse()
            return response.headers["X-Request-ID"], json.loads(response.read())

    assert ids("abc-1.2_3") == ("abc-1.2_3", ["abc-1.2_3"] * 3)
    made = set()
    for given in (None, "", "x" * 65, "a b", "a/b", "\u00e4"):
        answered, seen = ids(given)
        assert seen == [answered] * 3 and answered != given and len(answered) == 16
        made.add(answered)
    assert len(made) == 6


@ON(("server", "framework"), [service("uvicorn")])
def test_a_service_that_has_a_server_of_its_own_needs_no_second_one(
    server: str, framework: str, start: Any, sockets: view.Sockets
) -> None:
    running: Service = start(server, framework, OFFLOOP_OBSERVE="1", **OBSERVED, **sockets.environment)
    [process] = look(running)["processes"]
    assert list(sockets.all()) == [process["process"]["pid"]]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(next(iter(sockets.all().values())))
    running.signal(signal.SIGTERM)
    running.wait()
