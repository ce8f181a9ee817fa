"""Another system, for steps 4 to 7: it takes connections, and takes its time to answer.

python system.py 9000
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading


class System:
    """A server on loopback. A client sends a number of seconds, and gets a line of text after that time.

    It ends a call whose client has closed its connection.
    """

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        """All that there ever were."""
        self.running = 0
        """The number of calls that run."""
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def hang_up(self) -> None:
        """Closes all connections, as a restart would."""
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.hang_up()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as calls:
            for call in calls:
                self._count(1)
                try:
                    has_gone = self._wait(connection, float(call))
                finally:
                    self._count(-1)
                if has_gone:
                    break
                connection.sendall(b"the answer\n")

    def _wait(self, connection: socket.socket, seconds: float) -> bool:
        """Waits for so long, or until the client has gone. Returns whether it has."""
        connection.settimeout(max(seconds, 0.001))
        try:
            return not connection.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return False
        finally:
            connection.settimeout(None)

    def _count(self, more: int) -> None:
        with self._lock:
            self.running += more


if __name__ == "__main__":
    system = System(int(sys.argv[1]))
    print(f"the system listens on {system.address}")
    threading.Event().wait()
