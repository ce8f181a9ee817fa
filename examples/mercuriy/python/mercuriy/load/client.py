"""An HTTP/1.1 client for one address: connections are kept, and there are as many as requests at a time."""

from __future__ import annotations

import asyncio
from typing import NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    status: int
    body: bytes


_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Client:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"{url} is no address such as http://127.0.0.1:8080")
        self._host, self._port = parts.hostname, parts.port or 80
        self._idle: list[_Connection] = []

    async def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> Answer:
        """Sends a request, and returns the answer. Raises OSError if there is none."""
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        )
        while True:
            is_used = bool(self._idle)
            connection = self._idle.pop() if is_used else await self._connect()
            try:
                answer, is_kept = await _exchange(connection, head.encode(), body)
            except (OSError, EOFError) as error:
                connection[1].close()
                if is_used and isinstance(error, _Unanswered):
                    continue  # the server has closed it while it was idle
                raise OSError(f"no answer: {error!r}") from error
            except BaseException:
                connection[1].close()
                raise
            if is_kept:
                self._idle.append(connection)
            else:
                connection[1].close()
            return answer

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    async def _connect(self) -> _Connection:
        return await asyncio.open_connection(self._host, self._port, limit=1 << 20)


class _Unanswered(OSError):
    """The connection ended before anything of the answer came."""


async def _exchange(connection: _Connection, head: bytes, body: bytes) -> tuple[Answer, bool]:
    """Returns the answer, and whether the connection can be used again."""
    reader, writer = connection
    try:
        writer.write(head)
        if body:
            writer.write(body)
        await writer.drain()
    except ConnectionError:
        pass  # an answer may have come before all of the body was sent
    try:
        received = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        if isinstance(error, asyncio.IncompleteReadError) and error.partial:
            raise
        raise _Unanswered("the connection was closed") from error
    status_line, *lines = received.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "chunked" in fields.get("transfer-encoding", ""):
        content = await _read_chunked(reader)
    else:
        content = await reader.readexactly(int(fields.get("content-length", "0")))
    return Answer(int(status_line.split()[1]), content), fields.get("connection", "").lower() != "close"


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    content = bytearray()
    while size := int(await reader.readline(), 16):
        content += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")
    return bytes(content)
