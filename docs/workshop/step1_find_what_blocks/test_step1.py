"""What has frozen the loop is named: the handler and its line."""

from __future__ import annotations

import threading
import time
from typing import Any

PATIENCE = 60.0


def found(service: Any, name: str) -> list[str]:
    """Returns the places where the loop stood still, as soon as one of them has this name."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        answer = service.client.get("/stalls")
        assert answer.status_code == 200, "the service does not say what has frozen it"
        places: list[str] = answer.json()
        if any(name in place for place in places):
            return places
        time.sleep(0.1)
    raise AssertionError(f"no place names {name}: {places}")


def test_a_computation_that_freezes_the_loop_is_named(service: Any) -> None:
    service.client.get("/sum", params={"n": 10_000_000})
    assert "service.py" in "".join(found(service, "in add"))


def test_a_read_that_freezes_the_loop_is_named(service: Any) -> None:
    # The read ends after a second.
    threading.Timer(1.0, service.fifo.write_bytes, (b"x",)).start()
    service.client.get("/read")
    found(service, "in read")
