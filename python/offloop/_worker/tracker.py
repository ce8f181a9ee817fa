"""multiprocessing's resource tracker in a worker: that of the process that has the pool."""

from __future__ import annotations

import os
import sys

from .._imports import when_imported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAME = "multiprocessing.resource_tracker"


def adopt(door: int) -> None:
    """Makes this process use the tracker of the process that has the pool, once it imports multiprocessing's module.

    `door` is the descriptor of a socket on which it asks for the tracker. Then that is started, if it does not run yet: it
    is an interpreter of its own, and most jobs do not need it.
    """

    def use(module: Any) -> None:
        module._resource_tracker._fd = _ask(door)

    when_imported(_NAME, use)


def _ask(door: int) -> int | None:
    """Returns a descriptor that leads to the tracker. None if the other process can start none, or has ended."""
    import socket

    here, there = socket.socketpair()
    with here:
        here.settimeout(None)  # there may be a default one
        try:
            with there, socket.socket(fileno=os.dup(door)) as asking:
                asking.settimeout(None)
                socket.send_fds(asking, [b"?"], [there.fileno()])
            _, found, _, _ = socket.recv_fds(here, 1, 1)
        except OSError:  # a job has closed the door, say
            return None
    if not found:
        return None
    os.set_inheritable(found[0], False)
    return found[0]


def fork() -> int:
    """Forks this process. The child uses the same tracker; since Python 3.14 that of a plain `os.fork` does not."""
    module = sys.modules.get(_NAME)
    intent: Any = getattr(module, "_fork_intent", None)
    if intent is None:
        return os.fork()
    intent.preserve_fd = True
    try:
        return os.fork()
    finally:
        intent.preserve_fd = False
