"""While a read waits, everything else is answered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any


def test_health_answers_while_a_read_waits(service: Any) -> None:
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(service.client.get, "/read")
        try:
            # To open it for writing waits for the reader: now the service reads.
            with service.fifo.open("wb") as file:
                # A service whose loop waits for the read cannot answer this.
                assert service.client.get("/health", timeout=10).json() == {"ok": True}
                assert not reading.done()
                file.write(b"\x01")
            assert reading.result().json() == {"read": "01"}
        finally:
            reading.cancel()
