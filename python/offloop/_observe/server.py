"""One snapshot of this process, and the servers that show it."""

from __future__ import annotations

import atexit
import json
import os
from types import TracebackType
from typing import Self, cast, final

from .. import _offloop
from .._watch.events import stacks
from .._watch.watch import watch_for_view
from .document import Snapshot
from .program import service_name

__all__ = ["ObserveServer", "observe", "serve_observe"]


_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
"""The directory of this package, as the files of its code objects begin."""


def prepare() -> None:
    """Makes this process ready to be looked at: it has a name, jobs have names from now on, and loops are watched."""
    _offloop.prepare_view(service_name(), _PACKAGE, stacks())
    watch_for_view()


def observe() -> Snapshot:
    """Returns the state of this process: pools, workers, jobs that run, loops, deaths of workers, advice.

        for pool in offloop.observe()["pools"]:
            print(pool["name"], pool["queued"], [job["name"] for job in pool["jobs"]])

    Nothing is stopped for it. Rates, such as `cores_used`, cover about the last second in which somebody looked, so the
    first snapshot has none. The first call also begins to watch the loops that no other watch watches: the one that runs
    on this thread, and each that starts from then on. They are not logged.
    """
    prepare()
    return cast("Snapshot", json.loads(_offloop.observe()))


@final
class ObserveServer:
    """A server of the live view of this process. Made by `offloop.serve_observe`."""

    def __init__(self, engine: _offloop.ObserveServer) -> None:
        self._engine = engine

    @property
    def socket_path(self) -> str | None:
        """The path of the Unix socket, which only this user can reach."""
        return self._engine.socket_path

    @property
    def http_address(self) -> str | None:
        """The address and port of HTTP, as `127.0.0.1:8811`; None if there is none."""
        return self._engine.http_address

    def close(self) -> None:
        """Ends the server, and the connections that it has. Does nothing if that was done, or in a child made by fork()."""
        _open.discard(self)
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        places = [place for place in (self.socket_path, self.http_address) if place is not None]
        return f"<offloop.ObserveServer at {', '.join(places) or 'no address'}>"


_open: set[ObserveServer] = set()
"""The servers that are not closed. A program need not keep what it has opened."""


def _close_all() -> None:
    for server in list(_open):
        server.close()


atexit.register(_close_all)


def serve_observe(
    service: str | None = None,
    *,
    http: str | None = None,
    token: str | None = None,
    allow_cancel: bool = False,
) -> ObserveServer:
    """Opens the live view of this process, until the returned server is closed, or the process ends.

        offloop.serve_observe(http="127.0.0.1:8811")

    There is a Unix socket, in a directory that only this user can enter; `offloop top` finds it. The environment variable
    `OFFLOOP_OBSERVE=1` does the same when offloop is imported, without a line of code.

    service: the service that this process belongs to. One view shows all processes of it. Default: `OFFLOOP_SERVICE`, or
    the program's name.

    http: an address for browsers as well, such as "127.0.0.1:8811"; port 0 takes any that is free.

    token: what viewers by HTTP must send. Without one only loopback is allowed, and an address elsewhere is an error.

    allow_cancel: whether viewers may cancel jobs.

    The server's threads never need the interpreter, so the view shows a loop that stands still while it keeps the
    interpreter to itself. Opening it also begins to watch loops, as `observe` does. In a child made by fork() the server is
    gone; the child can open its own. Raises ValueError for an address that cannot be used, and OSError if one is in use, if
    this process has another such server, or if the socket cannot be made.
    """
    prepare()
    server = ObserveServer(_offloop.ObserveServer(service, http, token, allow_cancel))
    _open.add(server)
    return server
