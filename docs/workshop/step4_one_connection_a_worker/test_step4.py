"""Each worker has a connection of its own, and keeps it as long as it can be used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

WORKERS = 4


def ask_at_once(service: Any, count: int) -> list[int]:
    """Asks so many times at once. Returns the statuses."""
    with ThreadPoolExecutor(count) as threads:
        asked = [threads.submit(service.client.get, "/ask", params={"seconds": 0.1}) for _ in range(count)]
        return [one.result().status_code for one in asked]


def test_the_system_is_asked_by_one_connection_a_worker(system: Any, service: Any) -> None:
    answer = service.client.get("/ask", params={"seconds": 0.1})
    assert answer.status_code == 200 and answer.json() == {"answer": "the answer"}
    for _ in range(3):
        assert ask_at_once(service, 3 * WORKERS) == [200] * 3 * WORKERS
    assert len(system.connections) <= WORKERS


def test_a_broken_connection_is_replaced(system: Any, service: Any) -> None:
    assert ask_at_once(service, WORKERS) == [200] * WORKERS
    system.hang_up()
    # A worker notices it when it uses its connection.
    statuses = [service.client.get("/ask", params={"seconds": 0}).status_code for _ in range(4 * WORKERS)]
    assert set(statuses) <= {200, 503} and statuses[-1] == 200


def test_health_answers_while_the_system_is_asked(system: Any, service: Any) -> None:
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(service.client.get, "/ask", params={"seconds": 3})
        while not system.running:
            assert not asking.done(), asking.result().text
        assert service.client.get("/health").json() == {"ok": True}
        assert not asking.done()
        assert asking.result().status_code == 200
