"""An accepted message is delivered: after failures, after the end of the service, and after its death."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from services import Service, error_of, kill, until


def read(service: Service, id: str) -> dict[str, Any]:
    answer = service.client.get(f"/messages/{id}")
    assert answer.status_code == 200, answer.text
    message: dict[str, Any] = answer.json()
    return message


def accepted(answer: httpx.Response) -> str:
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert body["state"] == "accepted"
    return str(uuid.UUID(body["id"]))


def is_delivered(service: Service, id: str) -> bool:
    message = read(service, id)
    assert message["state"] != "failed", message
    return bool(message["state"] == "delivered")


@pytest.mark.parametrize("system", ["rfc", "postgres", "tarantool", "sqlite"])
def test_a_message_is_delivered_and_has_its_result(service: Service, system: str) -> None:
    id = accepted(service.send(system, "add", 40, 2))
    until(lambda: is_delivered(service, id), "the message is delivered")
    assert read(service, id) == {"id": id, "state": "delivered", "attempts": 1, "error": None, "result": 42}


def test_a_function_that_fails_is_final(service: Service) -> None:
    id = accepted(service.send("rfc", "fail", "no such customer"))
    until(lambda: read(service, id)["state"] == "failed", "the message has failed")
    message = read(service, id)
    assert message["attempts"] == 1 and message["result"] is None
    assert "no such customer" in message["error"]


def test_messages_are_counted_by_state(service: Service) -> None:
    counts = service.client.get("/messages").json()["counts"]
    assert set(counts) == {"accepted", "delivering", "delivered", "failed"}
    id = accepted(service.send("rfc", "add", 1, 2))
    until(lambda: is_delivered(service, id), "the message is delivered")
    only = service.client.get("/messages", params={"state": "delivered"}).json()["counts"]
    assert list(only) == ["delivered"] and only["delivered"] > counts["delivered"]
    error_of(service.client.get("/messages", params={"state": "lost"}), 422, "bad_arguments")


def test_what_cannot_be_delivered_is_refused(service: Service) -> None:
    error_of(service.send("sap", "add", 1, 2), 404, "unknown_system")
    error_of(service.send("rfc", "drop", 1, 2), 404, "unknown_function")
    error_of(service.send("rfc", "add", 1), 422, "bad_arguments")
    error_of(service.client.post("/messages", json={"to": "rfc", "function": "add"}), 422, "bad_arguments")
    error_of(
        service.client.post("/messages", json={"to": 1, "function": "add", "args": []}), 422, "bad_arguments"
    )
    error_of(service.client.post("/messages", content=b'{"to": "rfc", '), 400, "truncated")


def test_an_unknown_message_is_said_to_be_one(service: Service) -> None:
    error_of(service.client.get(f"/messages/{uuid.uuid4()}"), 404, "no_such_message")
    error_of(service.client.get("/messages/x"), 404, "no_such_message")


def test_a_message_waits_for_a_system_that_is_down(start: Callable[..., Service]) -> None:
    service = start()
    id = accepted(service.send("rfc", "slow", 1500))
    until(lambda: read(service, id)["state"] == "delivering", "the delivery begins")
    kill(service.status()["systems"]["rfc"]["pid"])
    until(lambda: is_delivered(service, id), "the message is delivered after all")
    message = read(service, id)
    assert message["attempts"] >= 2 and message["result"] == 1500


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_accepted_is_lost_with_the_service(
    start: Callable[..., Service], number: signal.Signals
) -> None:
    service = start()
    ids = [accepted(service.send("rfc", "slow", 200)) for _ in range(30)]
    # Some are delivered, some are being delivered, and some wait.
    until(lambda: any(read(service, id)["state"] == "delivered" for id in ids), "one is delivered")
    status = service.end(number)
    assert status == (-number if number is signal.SIGKILL else 0), service.log()
    again = start()
    until(lambda: all(is_delivered(again, id) for id in ids), "all are delivered")


def test_a_delivery_that_the_end_has_cut_off_is_done_again(start: Callable[..., Service]) -> None:
    service = start()
    id = accepted(service.send("rfc", "slow", 20_000))
    until(lambda: read(service, id)["state"] == "delivering", "the delivery begins")
    assert service.end() == 0, service.log()
    again = start()
    until(lambda: read(again, id)["state"] == "delivering", "the delivery begins again")
