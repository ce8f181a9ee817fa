"""A call ends with its time and with its client, here and on the system."""

from __future__ import annotations

from typing import Any

from support import begin, until

FOREVER = 600


def test_a_call_ends_with_its_time(system: Any, service: Any) -> None:
    # More than there are connections, so none may be left in a call that has no end.
    for _ in range(6):
        answer = service.client.get("/ask", params={"seconds": FOREVER}, timeout=15)
        assert answer.status_code == 504
    until(lambda: system.running == 0, "the calls end on the system")
    assert service.client.get("/ask", params={"seconds": 0}).status_code == 200


def test_a_call_ends_with_its_client(system: Any, patient_service: Any) -> None:
    with begin(patient_service, f"/ask?seconds={FOREVER}"):
        until(lambda: system.running == 1, "the call runs")
    # The client has gone.
    until(lambda: system.running == 0, "the call ends on the system")
    assert patient_service.client.get("/ask", params={"seconds": 0}).status_code == 200
