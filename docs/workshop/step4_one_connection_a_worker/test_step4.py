"""Calls share few connections, which stay."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any


def squares(service: Any) -> list[Any]:
    """Asks for twenty squares at once."""

    def square(number: int) -> Any:
        answer = service.client.get("/square", params={"of": number})
        assert answer.status_code == 200, "the service cannot call the system"
        return answer.json()["square"]

    with ThreadPoolExecutor(20) as threads:
        return list(threads.map(square, range(20)))


def test_calls_share_the_connections_of_the_workers(service: Any) -> None:
    for _ in range(2):
        assert squares(service) == [number**2 for number in range(20)]
        assert 1 <= service.system.connections <= 4
