"""The service does what it should, as long as one client uses it."""

from __future__ import annotations

import threading
from typing import Any


def test_it_answers_one_client(service: Any) -> None:
    assert service.client.get("/health").json() == {"ok": True}
    assert service.client.get("/sum", params={"n": 1000}).json() == {"sum": 332833500}
    threading.Thread(target=service.fifo.write_bytes, args=(b"\x01\x02",), daemon=True).start()
    assert service.client.get("/read").json() == {"read": "0102"}
