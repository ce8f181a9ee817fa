"""Another system, for the tests: it answers a line with a line, and knows how many clients it has."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Session(socketserver.StreamRequestHandler):
    server: System

    def handle(self) -> None:
        for line in self.rfile:
            match line.decode().split():
                case ["SQUARE", number]:
                    self.wfile.write(f"{int(number) ** 2}\n".encode())
                case ["WAIT"]:
                    # Ends when the client hangs up.
                    with self.server.counting():
                        self.rfile.read(1)
                    return
                case _:
                    return


class System(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.connections = 0
        """The number of connections that were opened so far."""
        self.waiting = 0
        """The number of calls of WAIT that run."""
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        host, port = self.server_address[:2]
        return f"{host}:{port}"

    def process_request(self, request: object, client_address: object) -> None:
        self.connections += 1
        super().process_request(request, client_address)  # type: ignore[arg-type]

    @contextmanager
    def counting(self) -> Iterator[None]:
        with self._lock:
            self.waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self.waiting -= 1


@contextmanager
def running_system() -> Iterator[System]:
    with System() as system:
        thread = threading.Thread(target=system.serve_forever, daemon=True)
        thread.start()
        yield system
        system.shutdown()
        thread.join()
