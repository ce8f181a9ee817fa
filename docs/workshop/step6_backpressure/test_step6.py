"""What cannot be done in time is refused at once, and what was accepted is done."""

from __future__ import annotations

import contextlib
import select
import socket
from typing import Any

from support import begin, until

WORKERS, QUEUE = 4, 4
FOREVER = 600


def test_what_finds_no_room_is_refused_at_once(system: Any, patient_service: Any) -> None:
    with contextlib.ExitStack() as clients:
        count = 3 * (WORKERS + QUEUE)
        waiting = [
            clients.enter_context(begin(patient_service, f"/ask?seconds={FOREVER}")) for _ in range(count)
        ]
        refused: list[bytes] = []

        def all_answered() -> bool:
            answered: list[socket.socket] = select.select(waiting, [], [], 0)[0]
            refused.extend(one.recv(65536) for one in answered)
            waiting[:] = [one for one in waiting if one not in answered]
            return len(waiting) <= WORKERS + QUEUE

        until(all_answered, "those that find no room are answered")
        assert all(
            answer.startswith(b"HTTP/1.1 503") and b"retry-after" in answer.lower() for answer in refused
        )
        assert system.running == WORKERS and len(waiting) == WORKERS + QUEUE
        # What is not asked of the system is not affected.
        assert patient_service.client.get("/health").json() == {"ok": True}
    # Their clients have gone. There is room again.
    until(lambda: system.running == 0, "the calls end on the system")
    answer = patient_service.client.get("/ask", params={"seconds": 0})
    assert answer.status_code == 200
