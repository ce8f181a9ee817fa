"""Calls of the systems' functions, by the blocking connector or by the async one."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, NamedTuple

from . import telemetry
from .metrics import metrics
from .places import Switch
from .places.kept import worker_name
from .systems import AsyncConnector, Connection, FunctionFailed, System, SystemDown

logger = logging.getLogger("mercuriy.calls")

PROBE_EVERY = 2.0
"""The seconds between two looks for systems that were not there."""


class Called(NamedTuple):
    result: Any
    worker: str
    """The worker whose connection was used."""


def perform(connection: Connection, function: str, args: list[Any], message: str | None) -> Called:
    """Calls a function. The job that workers run."""
    with telemetry.span("call", function=function):
        return Called(connection.call(function, args, message), worker_name())


class Calls:
    def __init__(self, systems: dict[str, System], switch: Switch) -> None:
        self.systems = systems
        self._switch = switch
        self._async: dict[str, AsyncConnector] = {}
        self._is_up = dict.fromkeys(systems, True)
        self._probed = 0.0
        self._probing: asyncio.Future[None] | None = None

    def is_up(self, system: str) -> bool:
        """Returns whether the last call has reached the system."""
        return self._is_up[system]

    async def call(self, system: str, function: str, args: list[Any], message: str | None = None) -> Called:
        """Calls a function by the blocking connector. Raises FunctionFailed, SystemDown."""
        with self._switch.use() as place:
            return await self._watched(
                system, place.wait(self.systems[system], perform, function, args, message)
            )

    async def call_async(self, system: str, function: str, args: list[Any]) -> Called:
        """Calls a function by the async connector, which needs no worker."""
        connector = self._async.get(system)
        if connector is None:
            connector = self._async[system] = self.systems[system].open_async()

        async def call() -> Called:
            return Called(await connector.call(function, args), worker_name())

        return await self._watched(system, call())

    async def probe(self) -> None:
        """Finds out which systems are there."""
        for system in self.systems:
            try:
                await self.call(system, "running", [])
            except Exception as error:
                # `_watched` has noted a system that is down; anything else is no answer either way.
                logger.info("%s does not answer: %s", system, error)

    def probe_soon(self) -> None:
        """Looks for systems that were not there, unless that was done a moment ago. Does not block."""
        now = time.monotonic()
        if all(self._is_up.values()) or now - self._probed < PROBE_EVERY:
            return
        self._probed = now
        self._probing = asyncio.ensure_future(self.probe())

    async def aclose(self) -> None:
        for connector in self._async.values():
            await connector.aclose()

    async def _watched(self, system: str, call: Any) -> Called:
        try:
            called: Called = await call
        except SystemDown:
            self._is_up[system] = False
            raise
        except FunctionFailed:
            self._is_up[system] = True
            raise
        except BaseException as error:
            if not isinstance(error, Exception):  # its time is over, or its client has gone
                metrics.calls_cancelled[system] += 1
            raise
        self._is_up[system] = True
        return called
