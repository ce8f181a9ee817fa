"""What the tests of several steps use."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

PATIENCE = 20.0
"""The seconds after which something that must happen has not happened."""


@contextlib.contextmanager
def begin(service: Any, path: str) -> Iterator[socket.socket]:
    """Sends a request, and gives the connection, which is closed at the end of the block."""
    url = service.client.base_url
    with socket.create_connection((url.host, url.port), PATIENCE) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        yield connection


def until(is_so: Callable[[], bool], what: str) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, f"it did not happen that {what}"
        time.sleep(0.02)
