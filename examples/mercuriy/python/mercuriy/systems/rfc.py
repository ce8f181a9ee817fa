"""The connector of the RFC-shaped protocol: plain blocking sockets, as a vendor might ship it."""

from __future__ import annotations

import json
import select
import socket
from typing import Any

from .. import catalog
from . import FunctionFailed, SystemDown, wire

CONNECT = 3.0
"""The seconds that connecting may take."""


class Connection:
    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        try:
            self._socket = socket.create_connection((host, int(port)), CONNECT)
        except OSError as error:
            raise SystemDown(f"{address} does not take connections: {error}") from error
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._is_broken = False

    def call(self, function: str, args: list[Any], message: str | None) -> Any:
        names = [parameter["name"].upper() for parameter in catalog.functions[function]["parameters"]]
        sent = {name: json.dumps(value) for name, value in zip(names, args, strict=True)}
        if message is not None:
            sent["MESSAGE"] = message
        try:
            self._socket.sendall(wire.encode(wire.CALL, function.upper(), *wire.pairs(sent)))
            tag, texts = wire.decode(self._receive(wire.size_of(self._receive(4))))
            if tag == wire.FAILURE:
                raise FunctionFailed(": ".join(texts[1:]) or "no reason was given")
            return json.loads(wire.parameters(texts)["RESULT"])
        except (OSError, wire.ProtocolError, KeyError, ValueError) as error:
            # The rest of an answer may follow, and nothing tells where it ends.
            self._is_broken = True
            raise SystemDown(f"the connection was lost: {error}") from error

    def _receive(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            chunk = self._socket.recv(size - len(received))
            if not chunk:
                raise ConnectionError("the server has hung up")
            received += chunk
        return bytes(received)

    def cancel(self) -> None:
        """Hangs up: the protocol has no other way to end a call. `close` would leave the thread waiting."""
        self._is_broken = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the server was quicker

    @property
    def is_broken(self) -> bool:
        """Whether a call has failed, or the server has hung up meanwhile."""
        if not self._is_broken:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            # Between two calls the server has nothing to say.
            self._is_broken = bool(poll.poll(0))
        return self._is_broken

    def close(self) -> None:
        self._socket.close()


def connect(address: str) -> Connection:
    return Connection(address)
