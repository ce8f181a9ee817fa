"""Functions of other systems are called, ended, and answered for; and the loop is free meanwhile."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from services import Service, at_once, checked_error, error_of, kill, receive, until

SYSTEMS = ["rfc", "postgres", "tarantool", "sqlite"]
FOREVER = 60_000
"""The longest call, in milliseconds. No test waits for its end."""


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    ("function", "args", "result"),
    [
        ("echo", [{"a": [1, 2.5, "é", None, True]}], {"a": [1, 2.5, "é", None, True]}),
        ("echo", ["😀"], "😀"),
        ("add", [-2, 1_000_000_000_000], 999_999_999_998),
        ("slow", [1], 1),
        ("slow", [0], 0),
        ("big", [500_000], "x" * 500_000),
        ("big", [0], ""),
        ("running", [], 0),
    ],
)
def test_a_function_returns(
    service: Service, system: str, function: str, args: list[Any], result: Any
) -> None:
    answer = service.call(system, function, *args)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["result"] == result
    assert body["system"] == system and body["via"] == "blocking" and body["worker"] and body["seconds"] >= 0


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_function_that_fails_says_why(service: Service, system: str) -> None:
    error = error_of(service.call(system, "fail", "no such order 4711"), 502, "function_failed")
    assert "no such order 4711" in error["message"]
    assert service.call(system, "add", 1, 1).json()["result"] == 2


def test_an_unknown_system_or_function_is_said_to_be_one(service: Service) -> None:
    error_of(service.call("sap", "echo", 1), 404, "unknown_system")
    error_of(service.call("rfc", "drop", 1), 404, "unknown_function")


@pytest.mark.parametrize(
    ("function", "args"),
    [
        ("echo", []),
        ("echo", [1, 2]),
        ("add", [1, "2"]),
        ("add", [1, True]),
        ("add", [1, 2.5]),
        ("add", [1, 1_000_000_000_001]),
        ("slow", [-1]),
        ("slow", [60_001]),
        ("fail", [1]),
        ("fail", ["x" * 1001]),
        ("big", [500_001]),
        ("running", [1]),
    ],
)
def test_arguments_that_do_not_fit_are_refused(service: Service, function: str, args: list[Any]) -> None:
    error_of(service.call("rfc", function, *args), 422, "bad_arguments")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "truncated"),
        (b'{"args": [', 400, "truncated"),
        (b'{"args": [1]} x', 400, "not_json"),
        (b'{"args": ["\xff"]}', 400, "not_utf8"),
        (b'{"args": [NaN]}', 400, "not_json"),
        (b'{"args": ["\\ud800"]}', 400, "not_json"),
        (b"[" * 100_000, 400, "not_json"),
        (b"[]", 422, "bad_arguments"),
        (b"{}", 422, "bad_arguments"),
        (b'{"args": 1}', 422, "bad_arguments"),
        (b'{"args": [1], "more": 1}', 422, "bad_arguments"),
        (b'{"args": ["' + b"x" * (256 * 1024) + b'"]}', 413, "too_large"),
    ],
)
def test_a_bad_body_is_refused(service: Service, body: bytes, status: int, code: str) -> None:
    error_of(service.client.post("/functions/rfc/echo", content=body), status, code)


def test_a_body_that_stops_is_answered(service: Service) -> None:
    with service.connected() as connection:
        service.begin(connection, "/functions/rfc/echo", b'{"args"', 100)
        service.health()
        status, body = receive(connection)
    assert status == 408
    checked_error(body, "body_timeout")


def test_a_connector_that_is_not_there_is_said_to_be_missing(service: Service) -> None:
    for system, about in service.status()["systems"].items():
        if not about["async"]:
            error_of(service.call(system, "add", 1, 2, via="async"), 400, "no_async_connector")
    error_of(service.call("rfc", "add", 1, 2, via="pigeon"), 422, "bad_arguments")


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_stand_in_is_named(service: Service, system: str) -> None:
    about = service.status()["systems"][system]
    assert service.call(system, "add", 1, 2).json()["stand_in"] == about["stand_in"]
    named = {"postgres": "OFFLOOP_POSTGRES_URL", "tarantool": "OFFLOOP_TARANTOOL_URL"}.get(system)
    wanted = {"postgres": "sqlite", "tarantool": "rfc"}.get(system)
    assert about["stand_in"] == (None if named is None or named in os.environ else wanted)


def test_health_answers_while_calls_run(service: Service) -> None:
    with at_once(8) as begin:
        calls = [begin(service.call, "rfc", "slow", FOREVER, timeout_ms=5000) for _ in range(8)]
        until(lambda: service.running("rfc") == 8, "all calls run")
        service.health()
        assert service.walk(b"[1]").status_code == 200
        assert not any(call.done() for call in calls)
        assert {call.result().status_code for call in calls} == {504}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_call_that_is_out_of_time_ends_on_the_system(service: Service, system: str) -> None:
    error_of(service.call(system, "slow", FOREVER, timeout_ms=100), 504, "timeout")
    until(lambda: service.running(system) == 0, "the call ends on the system")
    assert service.call(system, "add", 1, 2).status_code == 200


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_call_ends_on_the_system_with_its_client(service: Service, system: str) -> None:
    gone = service.metric("mercuriy_clients_gone_total")
    cancelled = service.metric(f'mercuriy_calls_cancelled_total{{system="{system}"}}')
    with service.connected() as connection:
        service.begin(connection, f"/functions/{system}/slow", b'{"args": [%d]}' % FOREVER)
        until(lambda: service.running(system) == 1, "the call runs")
    until(lambda: service.running(system) == 0, "the call ends on the system")
    until(lambda: service.metric("mercuriy_clients_gone_total") > gone, "the client is counted")
    assert service.metric(f'mercuriy_calls_cancelled_total{{system="{system}"}}') > cancelled


def test_a_system_that_is_down_is_said_to_be(start: Callable[..., Service]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    # Nothing listens there any more.
    service = start("--rfc", address)
    answer = service.call("rfc", "add", 1, 2)
    error_of(answer, 503, "system_down")
    assert int(answer.headers["retry-after"]) > 0
    assert service.status()["systems"]["rfc"]["up"] is False
    assert service.call("sqlite", "add", 1, 2).status_code == 200
    service.health()


def test_a_system_that_dies_is_called_again_when_it_is_back(start: Callable[..., Service]) -> None:
    service = start()
    pid = service.status()["systems"]["rfc"]["pid"]
    with at_once(1) as begin:
        call = begin(service.call, "rfc", "slow", FOREVER, timeout_ms=FOREVER)
        until(lambda: service.running("rfc") == 1, "the call runs")
        kill(pid)
        error_of(call.result(), 503, "system_down")
    until(lambda: service.call("rfc", "add", 1, 2).status_code == 200, "the system is back")
    assert service.status()["systems"]["rfc"]["pid"] != pid


def real(variable: str) -> Any:
    return pytest.mark.skipif(variable not in os.environ, reason=f"{variable} is not set")


@pytest.mark.parametrize(
    "system",
    [
        pytest.param("postgres", marks=real("OFFLOOP_POSTGRES_URL")),
        pytest.param("tarantool", marks=real("OFFLOOP_TARANTOOL_URL")),
    ],
)
def test_the_async_connector_answers_as_the_blocking_one(service: Service, system: str) -> None:
    if not service.status()["systems"][system]["async"]:
        pytest.skip("this implementation has no async connector for it")
    for function, args in {"echo": [{"a": "é"}], "add": [1, 2], "slow": [5], "big": [1000]}.items():
        answer = service.call(system, function, *args, via="async")
        assert answer.status_code == 200, answer.text
        assert answer.json()["result"] == service.call(system, function, *args).json()["result"]
        assert answer.json()["via"] == "async"
    error = error_of(service.call(system, "fail", "no such order", via="async"), 502, "function_failed")
    assert "no such order" in error["message"]
    error_of(service.call(system, "slow", 3000, via="async", timeout_ms=100), 504, "timeout")
    assert service.call(system, "add", 1, 2, via="async").status_code == 200
