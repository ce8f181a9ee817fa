"""The service answers for itself: ids, errors, modes, files, logs, metrics, its end."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from documents import expected, large
from services import MERCURIY, Service, at_once, checked_error, error_of, kill, receive, until

MODES = ["loop", "threads", "processes", "offloop"]


@pytest.mark.parametrize("given", ["abc", "A.b_c-1", "x" * 64])
def test_a_request_keeps_its_id(service: Service, given: str) -> None:
    for path in ("/health", "/status", "/nothing"):
        assert service.client.get(path, headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", 'a"b'])
def test_a_request_without_a_good_id_gets_a_new_one(service: Service, given: str) -> None:
    answers = [service.client.get("/health", headers={"X-Request-ID": given}) for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == 2 and given not in ids
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", id) for id in ids)


def test_what_is_not_there_is_said_to_be_missing(service: Service) -> None:
    error_of(service.client.get("/nothing"), 404, "no_such_route")
    error_of(service.client.get("/documents/"), 404, "no_such_route")
    answer = service.client.get("/documents")
    error_of(answer, 405, "method_not_allowed")
    assert "POST" in answer.headers["allow"]
    answer = service.client.delete("/messages")
    error_of(answer, 405, "method_not_allowed")
    assert "GET" in answer.headers["allow"] and "POST" in answer.headers["allow"]


def test_the_status_tells_the_mode_and_the_systems(service: Service) -> None:
    status = service.status()
    assert status["on"] == "offloop" and status["modes"] == MODES
    assert status["language"] == service.implementation
    assert status["pid"] == service.process.pid
    assert set(status["systems"]) == {"rfc", "postgres", "tarantool", "sqlite"}
    assert all(system["up"] for system in status["systems"].values())


def test_the_published_interface_is_that_of_the_repository(service: Service) -> None:
    assert service.client.get("/openapi.json").json() == json.loads((MERCURIY / "openapi.json").read_text())


def test_the_page_needs_nothing_from_elsewhere(service: Service) -> None:
    answer = service.client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.text == (MERCURIY / "page" / "index.html").read_text()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", answer.text)


def test_the_metrics_are_those_of_the_service_and_of_its_pools(service: Service) -> None:
    service.walk(b"[]")
    service.call("rfc", "add", 1, 2)
    text = service.client.get("/metrics").text
    for name in (
        "mercuriy_clients_gone_total",
        "mercuriy_loop_late_seconds",
        'mercuriy_mode{on="offloop"} 1',
        'mercuriy_messages{state="delivered"}',
        'mercuriy_requests_total{route="/documents",status="200"}',
        "offloop_jobs_total",
    ):
        assert re.search(f"^{re.escape(name)}", text, re.MULTILINE), name


@pytest.mark.parametrize("mode", MODES)
def test_everything_works_in_each_mode(start: Callable[..., Service], mode: str) -> None:
    service = start("--on", mode)
    assert service.status()["on"] == mode
    answer = service.walk(b'{"a": [1]}', "a.0").json()
    assert (answer["found"], answer["on"]) == (1, mode)
    events = service.walk(b'{"a": [1]}', Accept="text/event-stream").text
    assert "event: progress" in events and "event: result" in events
    error_of(service.walk(b"["), 400, "truncated")
    for system in ("rfc", "postgres", "tarantool", "sqlite"):
        assert service.call(system, "add", 1, 2).json()["result"] == 3
        error_of(service.call(system, "fail", "because"), 502, "function_failed")
    error_of(service.call("rfc", "slow", 1000, timeout_ms=50), 504, "timeout")
    id = service.send("rfc", "add", 1, 2).json()["id"]
    until(lambda: service.client.get(f"/messages/{id}").json()["state"] == "delivered", "it is delivered")
    assert service.client.get("/files/welcome.txt").status_code == 200
    assert service.end() in (0, 1)


def test_work_ends_where_it_began(start: Callable[..., Service]) -> None:
    service = start("--on", "threads")
    text = large(2)
    with at_once(2) as begin:
        call = begin(service.call, "rfc", "slow", 60_000, timeout_ms=60_000)
        walk = begin(service.walk, text)
        until(lambda: service.running("rfc") == 1, "the call runs")
        for mode in ("processes", "offloop"):
            service.set_mode(mode)
            assert service.status()["on"] == mode
            assert service.walk(b"[]").json()["on"] == mode
        assert not call.done()
        # It is still the same call, on the same connection.
        kill(service.status()["systems"]["rfc"]["pid"])
        error_of(call.result(), 503, "system_down")
        result = walk.result().json()
    assert result["keys"] == expected(text)["keys"]
    assert result["on"] == "threads"


def test_an_unknown_mode_is_refused(service: Service) -> None:
    error_of(service.client.post("/mode", json={"on": "fire"}), 422, "bad_arguments")
    error_of(service.client.post("/mode", json={}), 422, "bad_arguments")
    error_of(service.client.post("/mode", content=b"{"), 400, "truncated")
    assert service.status()["on"] == "offloop"


@pytest.mark.parametrize("size", [0, 1, 262_144, 3_000_001])
def test_a_file_is_sent_as_it_is(service: Service, size: int) -> None:
    content = os.urandom(size)
    (service.data / "files" / f"file-{size}.bin").write_bytes(content)
    answer = service.client.get(f"/files/file-{size}.bin")
    assert answer.status_code == 200
    assert answer.content == content


def test_a_file_that_is_not_there_is_said_to_be_missing(service: Service) -> None:
    files = service.data / "files"
    (files / "folder").mkdir(exist_ok=True)
    if not (files / "link").is_symlink():
        (files / "link").symlink_to("/etc/passwd")
    for name in ("nothing.txt", "folder", "link"):
        error_of(service.client.get(f"/files/{name}"), 404, "no_such_file")


@pytest.mark.parametrize(
    "name",
    ["..%2Faudit.jsonl", "%2e%2e", ".hidden", "a%2Fb", "a%00b", "a%20b", "x" * 129, "%C3%A9", "a%5Cb", ""],
)
def test_a_name_that_is_not_allowed_is_refused(service: Service, name: str) -> None:
    with service.connected() as connection:
        # As it is: a client would tidy the path up.
        connection.sendall(f"GET /files/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        status, body = receive(connection)
    assert (status, body["error"]["code"]) in {(400, "bad_name"), (404, "no_such_route")}


def audited(service: Service) -> dict[str, dict[str, Any]]:
    lines = (service.data / "audit.jsonl").read_bytes().splitlines()
    return {line["request"]: line for line in map(json.loads, lines)}


def test_each_request_is_in_the_audit_log(start: Callable[..., Service]) -> None:
    service = start()
    service.client.post("/documents", content=b"[", headers={"X-Request-ID": "first"})
    service.client.get("/status", headers={"X-Request-ID": "second"})
    service.client.get("/health", headers={"X-Request-ID": "third"})
    until(lambda: "second" in audited(service), "the log is written")
    # What was answered before the end is there after the end.
    service.client.get("/nothing", headers={"X-Request-ID": "last"})
    assert service.end() == 0
    lines = audited(service)
    assert "third" not in lines
    first = lines["first"]
    assert (first["method"], first["path"], first["status"]) == ("POST", "/documents", 400)
    assert first["seconds"] >= 0 and first["time"]
    assert lines["last"]["status"] == 404


def test_the_log_has_the_request_also_from_workers(start: Callable[..., Service]) -> None:
    service = start()
    for number in range(4):
        service.client.post("/documents", content=b"[1]", headers={"X-Request-ID": f"walk-{number}"})
    assert service.end() == 0
    lines = service.log_lines()
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    for number in range(4):
        mine = [line for line in lines if line.get("request") == f"walk-{number}"]
        # One is of the worker, and one of the service.
        assert len({line["logger"] for line in mine}) >= 2, lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_leaves_nothing_behind(start: Callable[..., Service], number: signal.Signals) -> None:
    service = start()
    service.walk(b"[]")
    left = [*service.workers(), service.status()["systems"]["rfc"]["pid"]]
    with at_once(1) as begin:
        call = begin(service.call, "rfc", "slow", 500)
        until(lambda: service.running("rfc") == 1, "the call runs")
        assert service.end(number) == 0, service.log()
        # It had begun, so it was done.
        assert call.result().status_code == 200
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), "its processes have ended")


def test_its_death_leaves_nothing_behind(start: Callable[..., Service]) -> None:
    service = start()
    service.walk(b"[]")
    left = [*service.workers(), service.status()["systems"]["rfc"]["pid"]]
    kill(service.process.pid)
    service.process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), "its processes have ended")


def test_new_work_is_refused_at_the_end(start: Callable[..., Service]) -> None:
    service = start()
    with service.connected() as waiting:
        # A request whose body is not complete: the service has begun it, but not its work.
        service.begin(waiting, "/functions/rfc/add", b'{"args":', 15)
        service.health()
        service.process.send_signal(signal.SIGTERM)

        def is_closed() -> bool:
            try:
                with service.connected():
                    return False
            except ConnectionRefusedError:
                return True

        until(is_closed, "new connections are refused")
        waiting.sendall(b"[1, 2]}")
        status, body = receive(waiting)
    assert status == 503
    checked_error(body, "stopping")
    assert service.process.wait() == 0


def test_the_live_view_shows_the_pools(service: Service) -> None:
    answer = service.client.get("/offloop/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")


def test_a_request_that_the_end_cuts_off_is_answered(start: Callable[..., Service]) -> None:
    service = start()
    with at_once(1) as begin:
        call = begin(service.call, "rfc", "slow", 60_000, timeout_ms=60_000)
        until(lambda: service.running("rfc") == 1, "the call runs")
        assert service.end() == 0, service.log()
        error_of(call.result(), 503, "stopping")
