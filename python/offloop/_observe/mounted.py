"""The live view within a web service, at a path of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import NamedTuple, final

from .. import _offloop
from .._pools.executor import run_in_daemon_thread
from .server import ObserveServer, prepare, serve_observe

_logger = logging.getLogger("offloop.web")

SLICE = 0.5
"""The longest time, in seconds, for which a stream sleeps without a look at whether it should end."""

Headers = Sequence[tuple[str, str]]


class Request(NamedTuple):
    """A request for the view."""

    method: str
    path: str
    """The path within the application."""
    query: str
    headers: Sequence[tuple[str, bytes]]
    peer: str | None
    """The address of the client as the server knows it."""
    port: int | None
    """The port on which the server has got it; None if it is not known."""


class Page(NamedTuple):
    """A whole response."""

    status: int
    headers: Headers
    body: bytes


class Stream(NamedTuple):
    """A response without an end: events, each to be sent at once."""

    headers: Headers
    events: AsyncGenerator[bytes]


@final
class MountedView:
    """The live view of the process that asks for it, and with it of all processes of its service.

    So each process of the service opens a socket by which the others find it: when it serves its first request, or when it
    is told to.
    """

    def __init__(self, path: str, token: str | None, allow_cancel: bool) -> None:
        if not path.startswith("/") or path.endswith("/"):
            raise ValueError(f"observe_path is {path!r}; it must begin with a slash, and must not end with one")
        self.path = path
        self._allow_cancel = allow_cancel
        self._handler = _offloop.ObserveHandler(token, allow_cancel)
        self._server: ObserveServer | None = None
        self._pid = 0
        """The process that has opened `_server`."""

    def covers(self, path: str) -> bool:
        """Returns whether a request for this path is one for the view."""
        return path == self.path or path.startswith(f"{self.path}/")

    def open(self) -> None:
        """Opens the socket of this process, unless that was done."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        prepare()
        try:
            self._server = serve_observe(allow_cancel=self._allow_cancel)
        except OSError as error:
            # A server that the program has started itself is found as well.
            if error.errno != errno.EADDRINUSE:
                _logger.warning("other processes of this service do not see this one in the live view: %s", error)

    def close(self) -> None:
        """Closes the socket."""
        server, self._server = self._server, None
        if server is not None and self._pid == os.getpid():
            server.close()

    async def answer(self, request: Request) -> Page | Stream:
        """Returns the response. Does not block the loop."""
        if request.path == self.path:
            # All that the page asks for is relative to it.
            query = f"?{request.query}" if request.query else ""
            return Page(308, [("location", f"{self.path.rpartition('/')[2]}/{query}")], b"")
        self.open()
        reply = await run_in_daemon_thread(
            lambda: self._handler.handle(
                request.method,
                request.path.removeprefix(self.path),
                request.query,
                request.headers,
                request.peer,
            ),
            "offloop-view",
        )
        if isinstance(reply, _offloop.ObserveEvents):
            listening = await run_in_daemon_thread(lambda: _Listening(request.port), "offloop-view")
            return Stream(reply.headers, _events(reply, listening))
        return Page(*reply)


async def _events(stream: _offloop.ObserveEvents, listening: _Listening) -> AsyncGenerator[bytes]:
    while not listening.is_over():
        yield await run_in_daemon_thread(stream.next, "offloop-view")
        left = stream.interval
        while left > 0 and not listening.is_over():
            await asyncio.sleep(min(left, SLICE))
            left -= SLICE


@final
class _Listening:
    """The sockets on which this process takes connections at a port. The web server closes them when it begins to end, and
    then waits for its requests, some servers forever. No server tells that to an application.
    """

    def __init__(self, port: int | None) -> None:
        # Called on a thread: there may be many connections.
        inodes = set[str]() if port is None else set(_listening(port))
        self._files: dict[str, str] = {}
        """The sockets by their files."""
        for name in os.listdir("/proc/self/fd") if inodes else ():
            file = f"/proc/self/fd/{name}"
            if (target := _target(file)) in inodes:
                self._files[file] = target

    def is_over(self) -> bool:
        """Returns whether one of them is closed."""
        return any(_target(file) != target for file, target in self._files.items())


def _target(file: str) -> str:
    try:
        return os.readlink(file)
    except OSError:
        return ""


def _listening(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/self/net/{name}") as table:
            for line in table:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    yield f"socket:[{fields[9]}]"
