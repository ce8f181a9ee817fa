"""Nothing accepted is lost while workers, servers, clients and the service itself are killed under load.

`--seconds 300` does it for five minutes.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable

import httpx
import pytest
from documents import large
from services import Service, in_thread, kill, until

PAUSE = 0.3
"""The mean of the seconds between two kills."""


class Load:
    """Clients that use whatever service is there, and note which messages it has accepted."""

    def __init__(self) -> None:
        self.service: Service | None = None
        self.accepted: set[str] = set()
        self.has_new = False
        """Whether a message was accepted since `forget_new`."""
        self.answers = 0
        self.faults: list[str] = []
        self._is_over = threading.Event()
        self._document = large(1.0)
        self._threads = [
            in_thread(work)
            for work in (self._send, self._send, self._walk, self._walk, self._call, self._vanish)
        ]

    def forget_new(self) -> None:
        self.has_new = False

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, once: Callable[[Service], httpx.Response | None]) -> None:
        while not self._is_over.is_set():
            service = self.service
            if service is None:
                time.sleep(0.01)
                continue
            try:
                answer = once(service)
            except httpx.TransportError:
                continue  # the service, or the connection, was killed
            if answer is None:
                continue
            self.answers += 1
            if answer.status_code not in (200, 202, 503, 504):
                self.faults.append(f"{answer.status_code}: {answer.text[:300]}")

    def _send(self) -> None:
        def once(service: Service) -> httpx.Response:
            answer = service.send("rfc", "slow", 20)
            if answer.status_code == 202:
                self.accepted.add(answer.json()["id"])
                self.has_new = True
            time.sleep(0.02)
            return answer

        self._repeat(once)

    def _walk(self) -> None:
        self._repeat(lambda service: service.walk(self._document))

    def _call(self) -> None:
        self._repeat(lambda service: service.call("rfc", "slow", 50))

    def _vanish(self) -> None:
        """A client that dies: it never waits for its answer, and sometimes sends only a part of its request."""

        def once(service: Service) -> None:
            path, body = random.choice(
                [("/documents", self._document), ("/functions/rfc/slow", b'{"args": [5000]}')]
            )
            try:
                with service.connected() as connection:
                    service.begin(
                        connection, path, body[: random.choice([len(body), len(body) // 2])], len(body)
                    )
                    time.sleep(random.random() * 0.1)
            except OSError:
                pass

        self._repeat(once)


def test_nothing_accepted_is_lost(start: Callable[..., Service], pytestconfig: pytest.Config) -> None:
    seconds: float = pytestconfig.getoption("--seconds")
    load = Load()
    kills = {"workers": 0, "servers": 0, "services": 0}
    service = load.service = start()
    until(lambda: bool(load.accepted), "a message is accepted")
    begun = time.monotonic()
    next_end = begun + seconds / 4
    while time.monotonic() - begun < seconds:
        time.sleep(random.random() * 2 * PAUSE)
        if time.monotonic() > next_end:
            # Once by force, once in peace, in turn.
            next_end += max(seconds / 4, 2.0)
            load.service = None
            kills["services"] += 1
            if kills["services"] % 2:
                kill(service.process.pid)
                service.process.wait()
            else:
                assert service.end(signal.SIGTERM) == 0, service.log()
            service = load.service = start()
            load.forget_new()
            until(lambda: load.has_new, "the service accepts messages again")
            continue
        if random.random() < 0.6:
            if workers := service.workers():
                kill(random.choice(workers))
                kills["workers"] += 1
        elif pid := service.status()["systems"]["rfc"]["pid"]:
            kill(pid)
            kills["servers"] += 1
        service.health()
    load.stop()
    assert not load.faults, load.faults[:5]
    assert load.accepted and load.answers

    def left() -> list[str]:
        counts = service.client.get("/messages").json()["counts"]
        return [state for state in ("accepted", "delivering") if counts[state]]

    until(lambda: not left(), "all messages are delivered")
    states = {id: service.client.get(f"/messages/{id}") for id in load.accepted}
    lost = {
        id: answer.text
        for id, answer in states.items()
        if answer.status_code != 200 or answer.json()["state"] != "delivered"
    }
    assert not lost, (kills, lost)
    print(f"{len(load.accepted)} messages accepted and delivered, {load.answers} answers, killed: {kills}")
