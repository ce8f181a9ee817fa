"""While a sum is computed, everything else is answered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

N = 40_000_000


def test_health_answers_while_a_sum_is_computed(service: Any) -> None:
    with ThreadPoolExecutor(1) as threads:
        adding = threads.submit(service.client.get, "/sum", params={"n": N}, timeout=100)
        answered = 0
        while not adding.done():
            assert service.client.get("/health", timeout=100).json() == {"ok": True}
            answered += 1
        assert adding.result().json() == {"sum": N * (N - 1) * (2 * N - 1) // 6}
    # On the loop, those that came before the sum were answered, and one after it.
    assert answered >= 20
