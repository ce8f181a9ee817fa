"""A call ends when its time is over, and when its client has gone: also on the other system."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline, f"it never happened that {what}"
        time.sleep(0.02)


def test_a_call_that_takes_too_long_is_ended(service: Any) -> None:
    # Four such calls occupy all workers.
    for _ in range(5):
        assert service.client.get("/wait", params={"ms": 200}).status_code == 504
    until(lambda: service.system.waiting == 0, "the system ends the calls")
    assert service.client.get("/square", params={"of": 3}).json() == {"square": 9}


def test_a_call_ends_with_its_client(service: Any) -> None:
    with pytest.raises(httpx.ReadTimeout):
        service.client.get("/wait", params={"ms": 600_000}, timeout=2)
    until(lambda: service.system.waiting == 0, "the system ends the call")
