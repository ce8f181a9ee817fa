"""The systems whose functions are called, each by a connector that blocks.

A connection serves one call at a time. It has four members:

    call(function, args, message)    blocks until the system has answered; raises FunctionFailed or SystemDown
    cancel()                         ends a call that another thread waits for
    is_broken                        whether the next call needs another connection
    close()
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Protocol


class FunctionFailed(Exception):
    """The function ran, and failed. The text is the system's."""


class SystemDown(Exception):
    """The system does not answer. The function may have run, if the connection broke during the call."""


class Connection(Protocol):
    def call(self, function: str, args: list[Any], message: str | None) -> Any: ...
    def cancel(self) -> None: ...
    @property
    def is_broken(self) -> bool: ...
    def close(self) -> None: ...


class AsyncConnector(Protocol):
    """An async connector, for any number of calls at a time."""

    async def call(self, function: str, args: list[Any]) -> Any: ...
    async def aclose(self) -> None: ...


@dataclass(frozen=True)
class System:
    """A system, or what stands in for it. It can be sent to a worker, which opens a connection there."""

    name: str
    kind: str
    """The name of the connector's module here."""
    address: str | None
    workers: int
    is_async: bool = False
    """Whether there is an async connector."""

    @property
    def stand_in(self) -> str | None:
        return self.kind if self.kind != self.name else None

    def open(self) -> Connection:
        """Opens a connection. Blocks. Raises SystemDown."""
        connection: Connection = self._connector().connect(self.address)
        return connection

    def open_async(self) -> AsyncConnector:
        """Returns the async connector, which connects when it is needed."""
        connector: AsyncConnector = self._connector().AsyncConnector(self.address, self.workers)
        return connector

    def shown_address(self) -> str | None:
        """Returns the address without a password."""
        if self.address is None or "@" not in self.address:
            return self.address
        return self.address.rpartition("@")[2]

    def _connector(self) -> Any:
        return importlib.import_module(f"{__name__}.{self.kind}")
