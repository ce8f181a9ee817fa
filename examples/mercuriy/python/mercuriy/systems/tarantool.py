"""Tarantool: its synchronous connector, and asynctnt beside it.

The server is that of python/examples/tarantool.lua, whose function `slow` ends when its client hangs up. The other
functions are sent with the call.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import asynctnt
import tarantool

from . import FunctionFailed, SystemDown

_SCRIPTS = {
    "echo": "return (...)",
    "add": "local a, b = ... return a + b",
    "slow": "local ms = ... return slow(ms / 1000, ms)",
    "fail": "error((...), 0)",
    "big": "return string.rep('x', (...))",
    "running": "return running()",
}


class _Connection(tarantool.Connection):  # type: ignore[misc]
    def hang_up(self) -> None:
        """Ends a call that another thread waits for. `close` would leave that thread waiting."""
        if self._socket is not None:
            self._socket.shutdown(socket.SHUT_RDWR)


class Connection:
    is_broken = False
    """It connects again by itself."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        try:
            self._connection = _Connection(host, int(port), connection_timeout=3, reconnect_max_attempts=1)
        except tarantool.NetworkError as error:
            raise SystemDown(f"{address} does not take connections: {error}") from error

    def call(self, function: str, args: list[Any], message: str | None) -> Any:
        try:
            answer = self._connection.eval(_SCRIPTS[function], _sent(function, args))
        except tarantool.NetworkError as error:
            raise SystemDown(str(error)) from error
        except tarantool.DatabaseError as error:
            raise FunctionFailed(_text(error)) from error
        return _received(function, answer[0])

    def cancel(self) -> None:
        self._connection.hang_up()

    def close(self) -> None:
        self._connection.close()


class AsyncConnector:
    """asynctnt: one connection for all calls."""

    def __init__(self, address: str, connections: int) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._connection: asynctnt.Connection | None = None
        self._connecting = asyncio.Lock()

    async def call(self, function: str, args: list[Any]) -> Any:
        try:
            async with self._connecting:
                if self._connection is None:
                    connection = asynctnt.Connection(
                        host=self._host, port=int(self._port), connect_timeout=3, reconnect_timeout=0
                    )
                    await connection.connect()
                    self._connection = connection
            answer = await self._connection.eval(_SCRIPTS[function], _sent(function, args))
        except (asynctnt.exceptions.TarantoolNetworkError, OSError) as error:
            self._connection = None
            raise SystemDown(str(error) or type(error).__name__) from error
        except asynctnt.exceptions.TarantoolError as error:
            raise FunctionFailed(_text(error)) from error
        return _received(function, answer[0])

    async def aclose(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect()


def connect(address: str) -> Connection:
    return Connection(address)


def _sent(function: str, args: list[Any]) -> list[Any]:
    return [json.dumps(args[0])] if function == "echo" else args


def _received(function: str, value: Any) -> Any:
    if function == "echo":
        return json.loads(value)
    return value if function == "big" else int(value)


def _text(error: Exception) -> str:
    return str(error.args[-1]) if error.args else type(error).__name__
