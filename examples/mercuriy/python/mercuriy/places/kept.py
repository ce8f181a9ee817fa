"""The connections that workers keep. Each belongs to one thread, of this process or of another, and serves
one call at a time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from . import Resource

R = TypeVar("R")


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.connections: dict[str, Any] = {}


_of_thread = _OfThread()


def with_connection(resource: Resource, fn: Callable[..., R], *args: Any) -> R:
    """Calls `fn(connection, *args)`, with this thread's connection. For the places without offloop."""
    connections = _of_thread.connections
    connection = connections.get(resource.name)
    if connection is not None and connection.is_broken:
        connections.pop(resource.name).close()
        connection = None
    if connection is None:
        connection = connections[resource.name] = resource.open()
    try:
        return fn(connection, *args)
    finally:
        if connection.is_broken:
            connections.pop(resource.name).close()


def close_connections() -> None:
    """Closes this thread's connections."""
    while _of_thread.connections:
        _of_thread.connections.popitem()[1].close()


def worker_name() -> str:
    """Returns the name of the worker that calls this."""
    return f"{os.getpid()}/{threading.current_thread().name}"
